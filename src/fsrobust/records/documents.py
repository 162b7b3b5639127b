"""JSON objects with their format and seal, a run's configuration, and files of one object per line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fsrobust.records.files import digest, sync_folder, write_bytes
from fsrobust.types import InputError, NewerFormatError

FORMAT: Final = 1
"""Version of every file this package writes; readers refuse what is newer."""


def check_format(path: Path, found: object) -> None:
    """Refuse a file of a format that this version does not know.

    Raises:
        NewerFormatError: a newer version wrote it.
        InputError: it says nothing that a version writes.
    """
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        sentence = f'Expected "{path}" to be of format {FORMAT}, but got {found}'
        raise NewerFormatError(f"{sentence}: a newer fsrobust wrote it") if newer else InputError(sentence)


def write_json(path: Path, content: Mapping[str, object], *, sealed: bool = False) -> None:
    """Write a JSON object that carries its format and, if ``sealed``, the digest of the rest."""
    content = {"format": FORMAT, **content}
    seal = {"sha256": digest_of(content)} if sealed else {}
    text = json.dumps({**content, **seal}, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object that ``write_json`` wrote; its seal is checked if it has one.

    Raises:
        InputError: no such file, not JSON, of a format this version does not know, or not what was sealed.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f'Expected a file "{path}", but there is none') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'"{path}" is damaged: it is not JSON ({error})') from error
    if not isinstance(content, dict):
        raise InputError(f'"{path}" is damaged: it holds no JSON object')
    check_format(path, content.get("format"))
    seal = content.pop("sha256", None)
    if seal is not None and seal != digest_of(content):
        raise InputError(f'"{path}" is damaged: it does not match its checksum')
    return content


_CONFIG: Final = {"data": ("name", "sha256"), "evaluation": ("norm", "eps"), "model": (), "train": ()}
"""Parts of a configuration that others read, and those of their values that are texts."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return a run's configuration, whose parts are objects and whose names are texts.

    Raises:
        InputError: as ``read_json``; or it is not shaped like one.
    """
    file = folder / "config.json"
    config = read_json(file)
    for name, texts in _CONFIG.items():
        part = config.get(name)
        if part is None:
            continue
        if not isinstance(part, dict) or not all(isinstance(part.get(key), str) for key in texts):
            raise InputError(f'"{file}" is damaged: "{name}" is not what a run writes there')
    return config


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


class Metrics:
    """A file of one JSON object per line, appended to as a run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, object]) -> None:
        """Add a line, with its format, and flush it to disk."""
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path.parent)

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines up to the first that is torn, as a kill leaves the last, or damaged.

        Raises:
            InputError: a line is of a format this version does not know.
        """
        if not self.path.exists():
            return []
        rows: list[dict[str, Any]] = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                break
            if any(isinstance(value, int) and abs(value) >= 2**63 for value in row.values()):
                break  # which no float can follow, and nothing counts so far
            found = row.pop("format", FORMAT)  # lines of old runs do not say it
            check_format(self.path, found)
            rows.append(row)
        return rows

    def damage(self) -> str | None:
        """Return a sentence if the file goes on after its last row, as a kill or a damaged disk leaves it."""
        if not self.path.exists():
            return None
        rows, lines = len(self.rows()), len(self.path.read_bytes().splitlines())
        return f'"{self.path}" is torn or damaged from line {rows + 1} on' if lines > rows else None

    def truncate(self, epochs: int) -> None:
        """Keep the rows of the first so many epochs: those that a checkpoint knows of."""
        kept = [row for row in self.rows() if row["epoch"] <= epochs]
        write_bytes(self.path, "".join(map(_line, kept)).encode())


def _line(row: Mapping[str, object]) -> str:
    return json.dumps({"format": FORMAT, **row}) + "\n"
