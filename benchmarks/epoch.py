"""Time whole epochs: data, augmentation, validation and checkpoint included, against the bare steps inside.

    python -m benchmarks.epoch --recipe cifar10-resnet18-at-fsr --images 2560 --data-root DIR

Compiles nothing by default: give --compile on to see it, its warm-up falls into the first epoch, which is not
counted.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import common
from fsrobust.data import load_dataset
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import pick_device, train_run
from fsrobust.settings import override


def main() -> None:
    """Train some epochs on part of a data set and print what they cost."""
    parser = common.parser(__doc__)
    parser.add_argument("--recipe", default="cifar10-resnet18-at-fsr")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--compile", default="off", choices=["on", "off", "auto"])
    options = parser.parse_args()
    device = pick_device(options.device)
    settings = [f"model.width={options.width}", f"train.epochs={options.repeats + 1}", "train.validation=256"]
    run = override(recipe(options.recipe), [*settings, f"train.compile={options.compile}"])
    data = load_dataset(run.data, "train", root=options.data_root)
    data = data.select(torch.arange(min(options.images, len(data))))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        history = train_run(run, data, out=Path(folder) / "run", device=device)
        total = time.perf_counter() - started
    counted = history.rows[1:]
    epochs = [row["seconds"] for row in counted]
    steps = [sum(row["step_seconds"].values()) for row in counted]
    result = {
        "recipe": options.recipe,
        "width": options.width,
        "images": len(data),
        "epoch_seconds": epochs,
        "step_seconds": [row["step_seconds"] for row in counted],
        "images_per_second": statistics.median(row["images_per_second"] for row in counted),
        "all_with_validation_and_checkpoints": total,
        "first_epoch_seconds": history.rows[0]["seconds"],
    }
    share = common.medians({"all": epochs, "steps": steps})
    print(
        f"epoch {share['all']:.2f} s, steps in it {share['steps']:.2f} s, {result['images_per_second']:.1f} images/s"
    )
    print(f"run of {len(history.rows)} epochs with validation and checkpoints: {total:.1f} s")
    common.save(options, "epoch", device, **result)


if __name__ == "__main__":
    main()
