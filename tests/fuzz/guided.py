"""Fuzz the readers guided by coverage: ``python -m tests.fuzz.guided NAME|all [SECONDS]``, seconds being each target's.

Names are those of ``TARGETS``; without one they are listed. What breaks a reader is left as crash-… in the folder,
and the exit code is 1.
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris
import PIL.Image
import scipy.io
import scipy.stats
import torch

del PIL, scipy, torch  # imported as they are: to instrument them takes minutes, and they are not ours
with atheris.instrument_imports(
    include=["fsrobust.data", "fsrobust.records", "fsrobust.config", "fsrobust.progress", "fsrobust.train"],
    exclude=["fsrobust.attacks"],
):
    from tests.fuzz.targets import TARGETS


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target, and end the process: libFuzzer never comes back."""
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def once(content: bytes) -> None:
        target.read(content)

    options = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=8192",
        "-timeout=20",
        "-max_len=20000",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def forked(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own, which need not instrument anew; return whether nothing broke."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        child = os.fork()
        if child == 0:
            fuzz(name, seconds, Path(corpus))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(arguments: list[str]) -> int:
    """Fuzz one target, or all in turn, for so many seconds each, 60 by default."""
    names = list(TARGETS) if arguments[:1] == ["all"] else arguments[:1]
    if not names or names[0] not in TARGETS:
        sys.stdout.write("\n".join(TARGETS) + "\n")
        return 2
    warnings.simplefilter("ignore")
    seconds, broken = int((arguments[1:] or ["60"])[0]), list[str]()
    for name in names:
        whole = forked(name, seconds)
        sys.stdout.write(f"{name}: {'nothing found' if whole else 'BROKEN'} in {seconds} s\n")
        sys.stdout.flush()
        broken += [] if whole else [name]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
