"""How much memory is left, where it is asked for."""

from pathlib import Path
from typing import Final

import torch

_UNKNOWN: Final = 4 * 2.0**30
"""Bytes assumed free where no system says: a small machine's."""


def free_memory(device: torch.device) -> float:
    """Return the bytes free on a device; on a CPU the least of the machine's and its container's."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_machine(), _container(Path("/sys/fs/cgroup")))


def _machine() -> float:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return _UNKNOWN


def _container(folder: Path) -> float:
    """Return what a control group (version 2) still allows, infinity where there is no limit."""
    try:
        limit, used = (float((folder / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group, or "max"
        return float("inf")
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= float(lines["inactive_file"])  # pages that the system gives back when asked
    except (OSError, KeyError, ValueError):
        pass
    return max(0.0, limit - used)
