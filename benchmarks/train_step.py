r"""Time one training step of both engines, in turn, in one process; print medians, ratio, share of the peak.

    python -m benchmarks.train_step --recipe cifar10-resnet18-at --recipe cifar10-resnet18-at-fsr \
        --batch 32 --batch 128 --json results/benchmarks/train_step_cpu.json

A step is augmentation, attack, loss, backward and optimiser on data that is already on the device, as a run
takes it. The ideal cost is the step's products and convolutions at the speed of a large bf16 (else float32)
matrix product, measured in the same run.
"""

from dataclasses import replace
from typing import Any

import torch

from benchmarks import common
from fsrobust.data import load_dataset
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import pick_device
from fsrobust.recipes.start import initial_model
from fsrobust.settings import override
from fsrobust.train.learner import Learner

ENGINES = ("reference", "fast")


def prepare(name: str, engine: str, width: int, batch: int, device: torch.device, compile_: str) -> Learner:
    """Return a learner of a recipe's model and objective on random images of its data's shape."""
    settings = [
        f"model.width={width}",
        f"train.engine={engine}",
        f"train.batch={batch}",
        f"train.compile={compile_}",
    ]
    run = override(recipe(name), settings)
    data = load_dataset("digits", "train").select(torch.arange(batch))
    generator = torch.Generator().manual_seed(0)
    shape = (batch, run.model.channels, 32, 32)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    learner = Learner(
        initial_model(run).to(device),
        replace(data, images=images).to(device),
        run.objective.make(),
        run.train,
        batch=batch,
        say=print,
    )
    learner.begin(1, run.train.lr)
    return learner


def compare(
    name: str, batch: int, width: int, repeats: int, device: torch.device, compile_: str
) -> dict[str, Any]:
    """Return times, medians and ratio of both engines on one recipe and batch."""
    indices = torch.arange(batch, device=device)
    learners = {e: prepare(name, e, width, batch, device, compile_) for e in ENGINES}
    count = 0

    def step(learner: Learner) -> None:
        nonlocal count
        count += 1
        learner.learn(indices, count)

    sides = {engine: (lambda learner=learner: step(learner)) for engine, learner in learners.items()}
    work = common.flops(sides["reference"])
    times, cold = common.alternate(sides, repeats=repeats, device=device)
    medians = common.medians(times)
    return {
        "recipe": name,
        "width": width,
        "batch": batch,
        "compile": compile_,
        "seconds": times,
        "warm_up": cold,
        "median": medians,
        "images_per_second": {engine: batch / value for engine, value in medians.items()},
        "ratio": medians["reference"] / medians["fast"],
        "flops": work,
        "parts": learners["fast"].step.laps.read(),
    }


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = common.parser(__doc__)
    parser.add_argument("--recipe", action="append", help="default: cifar10-resnet18-at-fsr")
    parser.add_argument("--batch", action="append", type=int, help="default: 32 and 128")
    parser.add_argument("--compile", default="off", choices=["on", "off"])
    options = parser.parse_args()
    device = pick_device(options.device)
    peak = common.matmul_peak(device)
    print({name: f"{value / 1e12:.3f} TFLOP/s" for name, value in peak.items()})
    rows, bars = [], {}
    for name in options.recipe or ["cifar10-resnet18-at-fsr"]:
        for batch in options.batch or [32, 128]:
            row = compare(name, batch, options.width, options.repeats, device, options.compile)
            fast = row["median"]["fast"]
            ideal = row["flops"] / peak.get("bf16", peak["fp32"])
            rows.append({**row, "ideal_seconds": ideal})
            bars[f"{name}, batch {batch}"] = (fast, ideal)
            print(
                f"{name} batch {batch}: {row['median']} ratio {row['ratio']:.2f}, {ideal / fast:.0%} of the peak"
            )
    common.save(options, "train_step", device, matmul_flops_per_second=peak, rows=rows)
    if options.plot:
        common.plot_against_ideal(options.plot, bars, "One training step, fast engine")


if __name__ == "__main__":
    main()
