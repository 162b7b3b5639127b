"""Time one training step of both engines, in turn, in one process; print medians and their ratio.

    python benchmarks/train_step.py --batch 32 --batch 128 --json results/benchmarks/train_step.json

A step is attack, loss, backward and optimiser on data that is already on the device. The engines alternate
(A B A B …) so that a drift of the machine's speed hits both; the first round of each warms up and is not
counted.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from fsrobust.config import override
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import initial_model, pick_device
from fsrobust.records import provenance, write_json
from fsrobust.seeding import Noise
from fsrobust.train.step import Step, make_step, multiplies_bf16

ENGINES = ("reference", "fast")


def prepare(name: str, engine: str, width: int, device: torch.device) -> Step:
    """Return a step of a recipe's model and objective, with the recipe's optimiser."""
    run = override(recipe(name), [f"model.width={width}"])
    model = initial_model(run).to(device)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=run.train.lr, momentum=run.train.momentum, weight_decay=run.train.weight_decay
    )
    return make_step(engine, model, run.objective.make(), optimiser)


def seconds(step: Step, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return how long one step takes, the device's work included."""
    noise = Noise.of(torch.arange(len(x), device=x.device), 0, "benchmark")
    started = time.perf_counter()
    step(x, y, noise)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(name: str, batch: int, width: int, repeats: int, device: torch.device) -> dict[str, object]:
    """Return the medians of both engines on one recipe and batch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 32, 32, generator=generator).to(device)
    y = torch.randint(0, 10, (batch,), generator=generator).to(device)
    steps = {engine: prepare(name, engine, width, device) for engine in ENGINES}
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for round_ in range(repeats + 1):
        for engine, step in steps.items():
            elapsed = seconds(step, x, y)
            if round_:
                times[engine].append(elapsed)
    medians = {engine: statistics.median(values) for engine, values in times.items()}
    return {
        "recipe": name,
        "width": width,
        "batch": batch,
        "seconds": times,
        "median": medians,
        "images_per_second": {engine: batch / value for engine, value in medians.items()},
        "ratio": medians["reference"] / medians["fast"],
    }


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", action="append", help="default: cifar10-resnet18-at-fsr")
    parser.add_argument("--batch", action="append", type=int, help="default: 32 and 128")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    print({**provenance(device), "bf16": multiplies_bf16(device)})
    rows = []
    for name in options.recipe or ["cifar10-resnet18-at-fsr"]:
        for batch in options.batch or [32, 128]:
            row = compare(name, batch, options.width, options.repeats, device)
            rows.append(row)
            print(f"{name} batch {batch}: {row['median']} ratio {row['ratio']:.2f}", flush=True)
    if options.json:
        write_json(
            options.json,
            {"kind": "benchmark", "name": "train_step", "provenance": provenance(device), "rows": rows},
        )


if __name__ == "__main__":
    main()
