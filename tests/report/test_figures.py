"""Figures: sound XML, the same every time, and drawn from the numbers given."""

import base64
import io
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fsrobust.report.evaluations import Gallery, Masks
from fsrobust.report.figures import (
    Line,
    ball_radius,
    eps_figure,
    iterations_figure,
    loss_figure,
    mask_figure,
    style,
    training_figure,
)
from fsrobust.report.pictures import gallery_shots, heat_maps, magnification, png

ROWS: list[dict[str, Any]] = [
    {"epoch": 1, "lr": 0.1, "loss": 3.0, "classification": 1.0, "separation": 1.0, "recalibration": 1.0},
    {"epoch": 2, "lr": 0.01, "loss": 2.0, "classification": 0.5, "separation": 1.0, "recalibration": 0.5},
]


def texts(svg: str) -> list[str]:
    """Return the texts of a figure."""
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def lines(count: int = 2) -> list[Line]:
    """Return some curves over the radii that evaluation uses for 8/255."""
    radii = [0.0, *(k / 255 for k in (2, 4, 8, 16, 32, 64, 128)), 1.0]
    return [Line(radii, [0.9, 0.85, 0.7, 0.5, 0.2, 0.0, 0.0, 0.0, 0.0], 100, style(k)) for k in range(count)]


def test_same_input_same_bytes() -> None:
    """A figure has no date and no random identifier."""
    first, second = (eps_figure(lines(), norm="linf", eps=[8 / 255]) for _ in range(2))
    assert first == second
    assert "metadata" not in first


def test_eps_in_255ths() -> None:
    """Where the ball is given in 255ths, so is the axis, and every radius has its tick."""
    shown = texts(eps_figure(lines(), norm="linf", eps=[8 / 255]))
    assert [t for t in shown if t.isdigit()][:9] == ["0", "2", "4", "8", "16", "32", "64", "128", "255"]
    assert any("255ths" in text for text in shown)


def test_eps_in_pixels() -> None:
    """Any other radius is written as it is."""
    line = Line([0.0, 0.0375, 0.075, 0.15, 1.0], [1.0, 0.9, 0.8, 0.7, 0.0], 50, style(0))
    shown = texts(eps_figure([line], norm="l2", eps=[0.15]))
    assert {"0", "0.0375", "0.075", "0.15", "1"} <= set(shown)
    assert any("L2 ball" in text and "255" not in text for text in shown)


def test_crowded_radii_are_thinned() -> None:
    """Radii of several balls that lie close together do not all get a tick."""
    close = [Line([0.0, r, 2 * r, 1.0], [1.0, 0.5, 0.2, 0.0], 50, style(0)) for r in (0.1, 0.11, 0.12)]
    shown = texts(eps_figure(close, norm="linf", eps=[0.1]))
    assert "0.1" in shown
    assert "0.11" not in shown


def test_iterations() -> None:
    """A curve of steps is drawn however short it is."""
    assert "steps of the attack" in texts(iterations_figure([Line(range(3), [0.9, 0.5, 0.4], 20, style(0))]))


def test_training_figures_show_what_there_is() -> None:
    """Each term and each accuracy on record has a line; the fall of the learning rate is marked once."""
    loss = loss_figure(ROWS, style(0))
    assert loss is not None
    assert {"loss, all terms", "separation", "learning rate lowered"} <= set(texts(loss))
    accuracy = training_figure([{"epoch": 1, "lr": 0.1, "validation_natural": 0.5}], style(0))
    assert accuracy is not None
    assert "validation, clean" in texts(accuracy)
    assert "validation, attacked" not in texts(accuracy)


def test_nothing_to_draw() -> None:
    """Rows without losses or accuracies make no empty figure."""
    assert loss_figure([{"epoch": 1}], style(0)) is None
    assert training_figure([{"epoch": 1}], style(0)) is None


def test_one_term_is_drawn_once() -> None:
    """Where classification is the whole loss, one line is enough."""
    loss = loss_figure([{"epoch": 1, "loss": 1.0, "classification": 1.0}], style(0))
    assert loss is not None
    assert "classification" not in texts(loss)


@pytest.mark.parametrize("histogram", [np.zeros((2, 50)), np.eye(2, 50), np.full((2, 50), 7)])
def test_mask_histogram(histogram: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Any counts make a histogram, none at all included."""
    assert "attacked" in texts(mask_figure(histogram.astype(np.int64), style(0)))


def test_styles_differ() -> None:
    """Twenty runs look different, by colour or by marker."""
    assert len({style(place) for place in range(20)}) == 20


@pytest.mark.parametrize(("norm", "text", "radius"), [("linf", "8/255", 8 / 255), ("l2", "0.5", 0.5)])
def test_ball_radius(norm: str, text: str, radius: float) -> None:
    """A radius reads back as what was written."""
    assert ball_radius(norm, text) == radius


def decoded(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels of a PNG data URI."""
    kind, _, content = uri.partition(";base64,")
    assert kind == "data:image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def gallery(channels: int, *, change: float = 0.1) -> Gallery:
    """Return two images of mid-greys, and the same with their first pixel changed."""
    images = np.full((2, channels, 8, 8), 128, dtype=np.uint8)
    attacked = (images / 255).astype(np.float32)
    attacked[:, :, 0, 0] += change
    labels = np.array([0, 1])
    return Gallery(images, attacked, labels, labels, labels[::-1], labels)


@pytest.mark.parametrize(("channels", "shape"), [(1, (96, 96)), (3, (96, 96, 3)), (5, (96, 96))])
def test_pictures(channels: int, shape: tuple[int, ...]) -> None:
    """Pixels become squares; unchanged ones are mid-grey in the perturbation, the largest change is white."""
    shot = gallery_shots(gallery(channels), ["zero", "one"])[0]
    image, perturbation = decoded(shot.image), decoded(shot.perturbation)
    assert image.shape == perturbation.shape == shape
    assert np.unique(image).tolist() == [128]
    assert np.unique(perturbation[:12, :12]).tolist() == [255]
    assert np.unique(perturbation[12:]).tolist() == [128]
    assert (shot.label, shot.before, shot.after) == ("zero", "zero", "one")
    assert (shot.right_before, shot.right_after) == (True, False)


def test_magnification() -> None:
    """The largest change fills half the range; where nothing changed, nothing is magnified."""
    assert magnification(gallery(1, change=0.1)) == pytest.approx(5)
    assert magnification(gallery(1, change=0.0)) == 1


def test_large_images_keep_their_size() -> None:
    """An image of 224 pixels is not enlarged."""
    assert decoded(png(np.zeros((224, 200), dtype=np.uint8))).shape == (224, 200)


@pytest.mark.parametrize("flat", [True, False])
def test_heat_maps(flat: bool) -> None:  # noqa: FBT001
    """A mask covers its image place by place, and a constant one is no division by zero."""
    mask = np.linspace(0.5, 0.5 if flat else 0.9, 18, dtype=np.float32).reshape(2, 3, 3)
    masks = Masks("cw", "layer3", mask, mask, np.zeros((2, 50), dtype=np.int64))
    maps = heat_maps(masks, gallery(3), ["zero"])
    assert len(maps.shots) == 2
    assert decoded(maps.shots[0].clean).shape == (96, 96, 3)
    assert maps.shots[1].label == "class 1"
