"""What every benchmark shares: fair timing, the machine's peak, a file and a picture of the result."""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fsrobust.attacks.view import multiplies_bf16
from fsrobust.records import provenance, write_json


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--repeats", type=int, default=5, help="timed rounds, medians are reported")
    made.add_argument("--width", type=int, default=64)
    made.add_argument("--device")
    made.add_argument("--json", type=Path)
    made.add_argument("--plot", type=Path, help="measured against ideal cost, as SVG or PNG")
    return made


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long ``work`` takes, the device's part included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def alternate(
    sides: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return each side's times, taken in turn (A B A B …) so that drift hits all, and its first, cold one."""
    cold = {name: seconds(work, device) for name, work in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            times[name].append(seconds(work, device))
    return times, cold


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each side."""
    return {name: statistics.median(values) for name, values in times.items()}


def matmul_peak(device: torch.device) -> dict[str, float]:
    """Return the FLOP/s of a large square product in float32 and, where it is native, bf16: best of 5."""
    side = 8192 if device.type == "cuda" else 2048
    peaks = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if name == "bf16" and not multiplies_bf16(device):
            continue
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        product = functools.partial(torch.mm, a, b)
        product()
        peaks[name] = 2 * side**3 / min(seconds(product, device) for _ in range(5))
    return peaks


class _Counter(TorchDispatchMode):
    """Adds up what torch's own table says each product and convolution costs.

    (torch's FlopCounterMode also follows modules, and does not bear `autograd.grad` inside a step.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it."""
        del types
        out = function(*args, **(kwargs or {}))
        cost = flop_registry.get(function._overloadpacket)
        if cost is not None:
            self.total += cost(*args, **(kwargs or {}), out_val=out)
        return out


def flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of the products and convolutions in ``work``."""
    with _Counter() as counter:
        work()
    total: int = counter.total
    return total


def save(options: argparse.Namespace, name: str, device: torch.device, **content: object) -> None:
    """Write the result where --json says."""
    if options.json:
        made = {"kind": "benchmark", "name": name, "provenance": provenance(device), **content}
        write_json(options.json, made)


def plot_against_ideal(path: Path, rows: Mapping[str, tuple[float, float]], title: str) -> None:
    """Draw (measured, ideal) seconds per row as bars: how far each is from arithmetic alone."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.5 * len(rows) + 1.4), layout="constrained")
    for place, (measured, ideal) in enumerate(rows.values()):
        axes.barh(place, measured, color="#4c78a8", label="measured" if place == 0 else None)
        axes.barh(place, ideal, color="#f58518", height=0.4, label="arithmetic alone" if place == 0 else None)
        axes.text(
            measured, place, f" {measured:.3g} s, {ideal / measured:.0%} of the peak", va="center", fontsize=8
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(measured for measured, _ in rows.values()))
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
