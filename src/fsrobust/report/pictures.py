"""Pictures as data URIs: pixels stay square, a perturbation is magnified around mid-grey."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fsrobust.report.evaluations import Gallery, Masks
from fsrobust.report.figures import Style

Pixels = NDArray[np.uint8]
"""[H, W] grey or [H, W, 3] colour."""

SIDE: Final = 96
"""Small images are enlarged, by a whole factor, to about so many pixels."""
HEAT: Final = "plasma"


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, what it shows for those who cannot see it, its caption, and who is who in it.

    A ``wide`` one has the page's whole width.
    """

    source: str
    alt: str
    caption: str
    legend: Sequence[tuple[Style, str]] = ()
    wide: bool = False


@dataclass(frozen=True)
class Shot:
    """One sample of a gallery as data URIs, with the class names of what it is and what the model said."""

    image: str
    perturbation: str
    attacked: str
    label: str
    before: str
    after: str
    right_before: bool
    right_after: bool


@dataclass(frozen=True)
class Heat:
    """One sample, and the mask over it, clean and attacked, as data URIs."""

    image: str
    clean: str
    attacked: str
    label: str


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps of some samples on one scale: ``low`` to ``high`` of the mask's mean over channels."""

    shots: Sequence[Heat]
    low: float
    high: float
    bar: str


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def vector(
    svg: str, alt: str, caption: str, legend: Sequence[tuple[Style, str]] = (), *, wide: bool = False
) -> Picture:
    """Return a figure as a picture."""
    return Picture(data_uri(svg.encode(), "image/svg+xml"), alt, caption, legend, wide)


def png(pixels: Pixels) -> str:
    """Return pixels as the data URI of a PNG, small ones enlarged without smoothing."""
    image = Image.fromarray(pixels)
    factor = max(1, round(SIDE / max(image.size)))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")


def _pixels(image: NDArray[np.floating]) -> Pixels:
    """Return an image [C, H, W] in [0, 1] as pixels; channels other than 1 or 3 become their mean."""
    channels = image if len(image) in (1, 3) else image.mean(0, keepdims=True)
    values: Pixels = np.rint(np.clip(channels, 0, 1) * 255).astype(np.uint8)
    return values[0] if len(values) == 1 else values.transpose(1, 2, 0)


def image_png(image: NDArray[np.floating]) -> str:
    """Return an image [C, H, W] in [0, 1] as the data URI of a PNG."""
    return png(_pixels(image))


def magnification(gallery: Gallery) -> float:
    """Return the factor by which the largest change in a gallery fills the range from black to white."""
    largest = float(np.abs(gallery.attacked - gallery.images / 255).max(initial=0))
    return 0.5 / largest if largest > 1e-6 else 1.0  # float32 keeps k/255 to a few 1e-8


def gallery_shots(gallery: Gallery, class_names: Sequence[str]) -> list[Shot]:
    """Return a gallery's samples as pictures; grey in a perturbation means that nothing changed."""
    factor, shots = magnification(gallery), []
    for place in range(len(gallery.labels)):
        image = gallery.images[place] / 255
        attacked = gallery.attacked[place]
        truth = int(gallery.labels[place])
        before, after = int(gallery.natural_predicted[place]), int(gallery.predicted[place])
        shots.append(
            Shot(
                image=image_png(image),
                perturbation=image_png(0.5 + factor * (attacked - image)),
                attacked=image_png(attacked),
                label=class_name(class_names, truth),
                before=class_name(class_names, before),
                after=class_name(class_names, after),
                right_before=before == truth,
                right_after=after == truth,
            )
        )
    return shots


def class_name(class_names: Sequence[str], index: int) -> str:
    """Return what a class is called, its number where it has no name."""
    return class_names[index] if 0 <= index < len(class_names) else f"class {index}"


def heat_maps(masks: Masks, gallery: Gallery, class_names: Sequence[str]) -> HeatMaps:
    """Return the mask as a heat map over the images of the gallery that it was computed on."""
    low = float(min(masks.natural.min(), masks.attacked.min()))
    high = float(max(masks.natural.max(), masks.attacked.max()))
    shots = [
        Heat(
            image=image_png(gallery.images[place] / 255),
            clean=_overlay(gallery.images[place] / 255, masks.natural[place], low, high),
            attacked=_overlay(gallery.attacked[place], masks.attacked[place], low, high),
            label=class_name(class_names, int(gallery.labels[place])),
        )
        for place in range(min(len(masks.natural), len(gallery.labels)))
    ]
    ramp = mpl.colormaps[HEAT](np.linspace(0, 1, 96))[None, :, :3].repeat(8, axis=0)
    return HeatMaps(shots, low, high, png(np.rint(ramp * 255).astype(np.uint8)))


def _overlay(image: NDArray[np.floating], mask: NDArray[np.float32], low: float, high: float) -> str:
    """Return an image in greys under its mask in colours, each place of the mask a rectangle."""
    height, width = image.shape[1:]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    spread = mask[rows][:, columns]
    scaled = (spread - low) / (high - low) if high > low else np.full_like(spread, 0.5)
    heat = mpl.colormaps[HEAT](scaled)[..., :3]
    grey = image.mean(0)[..., None]
    mixed = 0.75 * heat + 0.25 * np.clip(grey, 0, 1)  # the shape shows through, the colour still reads
    return png(np.rint(mixed * 255).astype(np.uint8))
