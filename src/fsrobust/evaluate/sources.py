"""Which code is somebody's own, and which files it comes from: own files count by content, libraries by version."""

import ast
import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from fsrobust.records import digest

KNOWN: Final = ("torch", "fsrobust", "builtins")
"""Packages whose code is not part of a network: their versions are in the record's provenance."""
_MOST: Final = 2000
"""Files that are followed; nobody's network has more."""


def is_known(made: object) -> bool:
    """Return whether a class or a function is torch's, ours, or the language's own."""
    return str(getattr(made, "__module__", "") or "builtins").partition(".")[0] in KNOWN


def is_library(name: str, file: str | None) -> bool:
    """Return whether a module is the standard library's or an installed package's, wherever its ``file`` is known."""
    top = name.partition(".")[0]
    if top in KNOWN:
        return True
    if file is None or not Path(file).is_absolute():
        return top in sys.stdlib_module_names and top != "__main__"
    return _is_installed(Path(file)) or any(Path(file).is_relative_to(place) for place in _standard())


def version(name: str) -> str:
    """Return the version of the installed package that a module belongs to; nothing for the standard library."""
    top = name.partition(".")[0]
    if top in KNOWN or top in sys.stdlib_module_names:
        return ""
    said = getattr(sys.modules.get(top), "__version__", None)
    return said if isinstance(said, str) else _distributed(top)


@cache
def _distributed(top: str) -> str:
    names = importlib.metadata.packages_distributions().get(top, [])
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names)))


def _is_installed(file: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


@cache
def _standard() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


@dataclass(frozen=True)
class Sources:
    """Files as they are now, each read once, with those of somebody's own that they import, however deep inside."""

    _read: dict[Path, bytes] = field(default_factory=dict)

    def of(self, name: str, file: str) -> str:
        """Return the digest of the contents of a module's file and of the own files that it imports, and they import.

        Where files lie does not count. Nothing where there is no such file: what was typed at a prompt.
        """
        left, seen = [(name, Path(file))], set[Path]()
        while left and len(seen) < _MOST:
            module, path = left.pop()
            if path in seen or not self._contents(path):
                continue
            seen.add(path)
            left += self._imports(module, path)
        return digest(*sorted(digest(self._contents(path)).encode() for path in seen)) if seen else ""

    def _contents(self, path: Path) -> bytes:
        if path not in self._read:
            try:
                self._read[path] = path.read_bytes()
            except (OSError, ValueError):
                self._read[path] = b""
        return self._read[path]

    def _imports(self, name: str, path: Path) -> list[tuple[str, Path]]:
        if path.suffix != ".py":
            return []
        try:
            tree = ast.parse(self._contents(path))
        except (SyntaxError, ValueError, RecursionError):
            return []
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = []
        for wanted in sorted(set(_wanted(tree, package))):
            file = _file(wanted)
            if file is not None and not is_library(wanted, str(file)):
                found.append((wanted, file))
        return found


def _wanted(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full name of all that may be a module in the imports of a file, wherever in it they stand."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond its package
                continue
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _file(name: str) -> Path | None:
    """Return the file of a module; nothing of it is run to find out."""
    there = getattr(sys.modules.get(name), "__file__", None)
    if isinstance(there, str):
        return Path(there)
    spec = _spec(name)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _spec(name: str) -> ModuleSpec | None:
    parent = name.rpartition(".")[0]
    if name.partition(".")[0] in (*KNOWN, *sys.stdlib_module_names):
        return None
    try:
        if not parent:
            return importlib.util.find_spec(name)
        within = _spec(parent)
        places = within.submodule_search_locations if within is not None else None
        return PathFinder.find_spec(name, list(places)) if places else None
    except (ImportError, ValueError, AttributeError):  # whatever stands in the way of an import
        return None
