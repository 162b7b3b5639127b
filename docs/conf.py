"""How the pages become a site: ``make docs``."""

import re
from pathlib import Path
from typing import Any, Final

from sphinx.application import Sphinx

import fsrobust

project = "fsrobust"
release = fsrobust.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "literal"  # docstrings quote names as they appear in code
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "imported-members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
html_theme = "furo"
html_title = f"fsrobust {release}"

_PAGES: Final = {
    "LOG.md": "log.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "../CITATION.cff",
}  # fmt: skip
"""Files beside the README that are pages here, or files to fetch."""


def _as_seen_from_here(_app: Sphinx, _path: Path, _page: str, content: list[str]) -> None:
    """Make links of the files in the project's folder fit this one."""
    content[0] = re.sub(r"\]\(docs/", "](", content[0])
    for file, page in _PAGES.items():
        content[0] = content[0].replace(f"]({file})", f"]({page})")


def _skip_foreign(_app: Sphinx, _what: str, _name: str, member: Any, skip: bool, _options: Any) -> bool:  # noqa: FBT001
    """Leave out what a package imports from elsewhere for its own use."""
    return skip or not str(getattr(member, "__module__", "fsrobust")).startswith("fsrobust")


def setup(app: Sphinx) -> None:
    """Connect the two."""
    app.connect("include-read", _as_seen_from_here)
    app.connect("autodoc-skip-member", _skip_foreign)
