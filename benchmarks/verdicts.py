"""Rows of a benchmark, each with its target and whether it is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    what: str
    shown: str
    target: str = "-"
    met: bool | None = None  # None: no target
    value: float | None = None

    @property
    def verdict(self) -> str:
        return {True: "yes", False: "NO", None: ""}[self.met]

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "found": self.value, "shown": self.shown, "target": self.target, "met": self.met}


@dataclass(frozen=True)
class Section:
    title: str
    rows: tuple[Row, ...] = ()
    skipped: str | None = None


def reported(what: str, value: float, form: str) -> Row:
    """A number without a target; `form` as of `format`, like `{:.3f} ms`."""
    return Row(what, form.format(value), value=value)


def at_most(what: str, value: float, limit: float, form: str) -> Row:
    return Row(what, form.format(value), f"<= {form.format(limit)}", bool(value <= limit), value)


def at_least(what: str, value: float, limit: float, form: str) -> Row:
    return Row(what, form.format(value), f">= {form.format(limit)}", bool(value >= limit), value)


def covered(what: str, share: float) -> Row:
    """The share of held-out values inside the stated 90 % interval."""
    return Row(what, f"{100 * share:.1f} %", "85 to 95 %", bool(0.85 <= share <= 0.95), share)
