"""Free memory is what the machine and its container leave, the smaller of the two."""

from pathlib import Path

import pytest
import torch

from fsrobust.data import memory


def control_group(folder: Path, *, limit: str, used: int, cached: int) -> Path:
    """Write the files of a control group, version 2."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    return folder


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [("1000", 400, 700.0), ("1000", 2000, 0.0), ("max", 400, float("inf"))]
)
def test_a_container_leaves_its_limit_less_what_is_used(
    tmp_path: Path, limit: str, used: int, expected: float
) -> None:
    """Cached files (100 bytes here) count as free, for the system gives them back; "max" is no limit."""
    assert memory._container(control_group(tmp_path, limit=limit, used=used, cached=100)) == expected


def test_without_a_control_group_there_is_no_limit(tmp_path: Path) -> None:
    """An empty folder limits nothing."""
    assert memory._container(tmp_path) == float("inf")


def test_the_smaller_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small container on a large machine is small."""
    monkeypatch.setattr(memory, "_machine", lambda: 100.0)
    monkeypatch.setattr(memory, "_container", lambda _folder: 7.0)
    assert memory.free_memory(torch.device("cpu")) == 7.0
