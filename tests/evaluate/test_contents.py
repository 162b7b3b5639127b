"""Images in 8 bits a pixel: they stay in the ball where that is possible, and what is kept is what was judged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fsrobust.attacks import L2, Ball, Linf
from fsrobust.attacks.witness import SLACK, in_ball
from fsrobust.data import Dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Study, Subject, carry_out
from fsrobust.evaluate.contents import Rounded, as_bytes, rounded
from fsrobust.records import read_npz
from fsrobust.types import Images
from tests.runs import digits, net

BALLS = [
    Linf(0.1),
    Linf(8 / 255),
    Linf(1 / 255),
    Linf(0.001),
    Linf(0.0),
    Linf(1.0),
    L2(0.5),
    L2(0.01),
    L2(0.0),
]


def clean(n: int = 50) -> Images:
    """Return images whose pixels are multiples of 1/255."""
    return pixels(torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8))


def at_the_edge(ball: Ball, x: Images) -> Images:
    """Return images that use the ball up in every pixel."""
    return ball.project(x + torch.randn_like(x).sign() * (ball.eps if ball.norm == "linf" else 1.0), x)


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_rounded_images_stay_in_the_ball(ball: Ball) -> None:
    """Whatever eps is; every pixel stays within a step of where it was."""
    x = clean()
    images = at_the_edge(ball, x)
    kept = as_bytes(images, x, ball)
    assert in_ball(ball, pixels(kept), x).all()
    assert ((pixels(kept) - images).abs() < 1 / 255 + 1e-6).all()


def test_plain_rounding_leaves_a_ball_of_no_multiple_of_a_step() -> None:
    """The defect that this guards against: at eps 0.1 each of 50 images is out of the ball by rounding alone."""
    x = clean()
    plain = pixels((255 * at_the_edge(Linf(0.1), x)).round().to(torch.uint8))
    assert not in_ball(Linf(0.1), plain, x).any()


@pytest.mark.parametrize("ball", [Linf(0.1), Linf(0.004)], ids=str)
def test_each_pixel_goes_to_the_nearest_step_within_reach(ball: Linf) -> None:
    """By looking at all 256 of them."""
    x = clean(4)
    images = ball.project(x + 2 * ball.eps * (torch.rand_like(x) - 0.5), x)
    steps = torch.arange(256) / 255
    off = (images[..., None] - steps).abs()
    off[(x[..., None] - steps).abs() > ball.eps + 5e-7] = torch.inf
    kept = pixels(as_bytes(images, x, ball))
    assert torch.allclose((kept - images).abs(), off.amin(-1), atol=1e-6)


def test_only_images_that_rounding_takes_out_of_an_l2_ball_go_towards_the_clean_one() -> None:
    """The first image has room in the ball and is rounded plainly, the second has none."""
    x = torch.full((2, 3, 8, 8), 100 / 255)
    images = torch.stack([x[0] + 0.6 / 255, x[1] + 2.6 / 255])
    ball = L2(float(L2(1.0).distance(images[1:], x[1:])))
    kept = as_bytes(images, x, ball)
    assert (kept[0] == 101).all()
    assert (kept[1] == 102).all()


def test_a_pixel_on_a_step_stays_there() -> None:
    """Float32 may put it a hair below its step: rounded towards the clean image it would lose all of one step."""
    x = torch.zeros(1, 1, 16, 16)
    images = pixels(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)) - 6e-8
    images[0, 0, 0, 0] = 0.6 / 255  # what plain rounding takes out of the ball
    ball = L2(float(L2(1.0).distance(images, x)) - SLACK * 12)
    kept = as_bytes(images, x, ball)
    assert kept.flatten().tolist() == list(range(256))


def test_images_off_the_grid_keep_the_nearest_step_and_do_not_count() -> None:
    """Between two steps with no step in reach there is nothing to round to: not in the ball, so never fooled."""
    x = torch.full((1, 1, 1, 1), 10.5 / 255)
    data = Dataset(
        "digits",
        "test",
        as_bytes(x, x, Linf(0.0)),
        torch.zeros(1, dtype=torch.int64),
        torch.arange(1),
        ("a",),
    )
    assert int(as_bytes(x + 0.3 / 255, x, Linf(0.3 / 255))) == 11
    out = rounded(x, data, Linf(0.0), lambda images: np.ones(len(images), np.int64))
    assert int(out.images) == 10
    both = Rounded(out.images.expand(2, 1, 1, 1), np.ones(2, np.int64), np.array([True, False]))
    assert both.fooled(np.zeros(2, np.int64)).tolist() == [True, False]
    assert not both.fooled(np.ones(2, np.int64)).any()


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)], ids=str)
def test_what_is_on_disk_is_what_was_judged(tmp_path: Path, ball: Ball) -> None:
    """adversarial.npz holds the rounded images: in the ball, with the classes that the model gives them, as said."""
    data, model = digits(20, "test"), net(width=8).eval()
    said: list[str] = []
    study = Study(tmp_path, Subject(model, "a network", "last"), data, 360, ball)
    carry_out(study, ["pgd10"], images=True, say=said.append)
    (file,) = tmp_path.glob("eval/*/adversarial.npz")
    kept = read_npz(file)
    assert kept["rounded"].dtype == np.uint8
    read = pixels(torch.from_numpy(kept["rounded"]))
    assert in_ball(ball, read, pixels(data.images)).all()
    assert kept["rounded_in_ball"].all()
    with torch.no_grad():
        assert np.array_equal(model(read).argmax(1).numpy(), kept["rounded_predicted"])
    right = (kept["rounded_predicted"] == kept["labels"]).mean()
    assert f"{right:.1%} after rounding to 8 bits within the ball" in " ".join(said)
