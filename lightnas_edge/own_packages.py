"""Whether `devices`, `luts` and `profiler` are the ones that belong to this program.

They are installed next to `lightnas_edge`. Public indexes have other packages called `luts` and `profiler`; installed into the same
environment, pip puts their files over ours without a word. Nothing of a foreign package is imported to find out.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import packages_distributions
from pathlib import Path

from lightnas_edge.errors import LightnasEdgeError

PACKAGES = ("devices", "luts", "profiler")
MARK = "# Part of lightnas-edge."  # a line of the `__init__.py` of each


class ForeignPackageError(LightnasEdgeError):
    """Another package has taken the place of one of ours."""


def require_own_packages() -> None:
    """Raises ForeignPackageError."""
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        path = None if found is None or found.origin is None else Path(found.origin)
        if path is None or MARK not in path.read_text(encoding="utf-8", errors="replace").splitlines():
            raise _foreign(name, path)


def _foreign(name: str, path: Path | None) -> ForeignPackageError:
    others = sorted({each for each in packages_distributions().get(name, []) if each != "lightnas-edge"})
    if path is None:
        return ForeignPackageError(
            f"the package {name}, a part of lightnas-edge, is missing", hint="install lightnas-edge again"
        )
    what = f"the package {name} of {', '.join(others)}" if others else f"another package {name}"
    steps = (
        [f"pip uninstall {' '.join(others)}"]
        if others
        else [f"remove {path.parent}, or run from a folder that has no {name}"]
    )
    return ForeignPackageError(
        f"{what} has taken the place of a part of lightnas-edge: {path}",
        hint="\n".join(
            [*steps, "then install lightnas-edge again, best in an environment of its own (python3 -m venv)"]
        ),
    )
