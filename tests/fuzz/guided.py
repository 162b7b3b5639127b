"""Fuzz the readers guided by coverage: ``python -m tests.fuzz.guided NAME [SECONDS]``; needs ``fsrobust[fuzz]``.

Names are those of ``TARGETS``; without one they are listed. What breaks a reader is left as crash-… in the folder.
"""

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


def main(arguments: list[str]) -> None:
    """Fuzz one target for so many seconds, 60 by default."""
    if not arguments or arguments[0] not in TARGETS:
        sys.stdout.write("\n".join(TARGETS) + "\n")
        return
    target, seconds = TARGETS[arguments[0]], (arguments[1:] or ["60"])[0]
    warnings.simplefilter("ignore")
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def once(content: bytes) -> None:
        target.read(content)

    options = [f"-max_total_time={seconds}", "-rss_limit_mb=8192", "-timeout=20", "-max_len=20000"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
