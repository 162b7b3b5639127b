"""Measure the peak memory of a training step, per engine and batch, each in a process of its own.

python -m benchmarks.memory --batch 128 --batch 256
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks import common, train_step
from fsrobust.recipes.execute import pick_device
from fsrobust.train.telemetry import peak_memory


def measure(name: str, engine: str, width: int, batch: int, device: str | None) -> None:
    """Print the bytes that two steps need above what is there before them."""
    chosen = pick_device(device)
    learner = train_step.prepare(name, engine, width, batch, chosen, "off")
    before = peak_memory(chosen)
    for step in range(2):
        learner.learn(torch.arange(batch, device=chosen), step)
    print(json.dumps({"before": before, "peak": peak_memory(chosen)}))


def main() -> None:
    """Measure what the command line asks for."""
    parser = common.parser(__doc__)
    parser.add_argument("--recipe", default="cifar10-resnet18-at-fsr")
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.recipe, options.measure, options.width, options.batch[0], options.device)
        return
    rows = []
    for batch in options.batch or [128]:
        for engine in train_step.ENGINES:
            command = [sys.executable, "-m", "benchmarks.memory", "--measure", engine, "--batch", str(batch)]
            command += ["--recipe", options.recipe, "--width", str(options.width)]
            command += ["--device", options.device] if options.device else []
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            rows.append({"engine": engine, "batch": batch, **found})
            print(
                f"{engine}, batch {batch}: {(found['peak'] - found['before']) / 2**20:,.0f} MiB above the start"
            )
    common.save(
        options, "memory", pick_device(options.device), recipe=options.recipe, width=options.width, rows=rows
    )


if __name__ == "__main__":
    main()
