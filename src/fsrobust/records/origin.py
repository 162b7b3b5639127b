"""What a number depends on besides its configuration."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def package_version() -> str:
    """Return this package's version."""
    try:
        return version("fsrobust")
    except PackageNotFoundError:  # run from a bare source tree
        return "unknown"


@functools.cache
def _git(*arguments: str) -> str | None:
    """Return what git says of the source tree this package runs from, None outside one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance(device: torch.device | str) -> dict[str, object]:
    """Return what a number depends on besides its configuration: code, versions, device, precision."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    ours = _git("ls-files", "--error-unmatch", __file__) is not None
    return {
        "fsrobust": package_version(),
        "commit": _git("rev-parse", "HEAD") if ours else None,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if ours else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else False,
    }
