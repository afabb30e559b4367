"""What operators and networks ran in, against the precision that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import luts
from lightnas_edge.cli._console import info, warn

_SHOWN = 3  # keys, and nodes of each, in a warning


def warn_fallbacks(lut: luts.Lut, keys: Sequence[str]) -> None:
    """Which of these did not run in the precision of their table; nothing to say of fp32."""
    entries = {**lut.entries, **lut.networks}
    measured = [entries[key] for key in keys if key in entries]
    if lut.precision == "fp32" or not measured:
        return
    fell_back = [entry for entry in measured if entry.fell_back]
    kind = "networks" if all(entry.is_network for entry in measured) else "operators"
    if fell_back:
        named = "; ".join(f"{entry.key} ({_listed(entry.fell_back)})" for entry in fell_back[:_SHOWN])
        more = f"; and {len(fell_back) - _SHOWN} more" if len(fell_back) > _SHOWN else ""
        runtime = f"{lut.fingerprint.get('backend')} {lut.fingerprint.get('backend_version')}"
        warn(
            f"{len(fell_back)} of {len(measured)} {kind} did not run in {lut.precision}: {named}{more}\n"
            f"  {runtime} ran these nodes in more bits, and their times are of that; `lightnas-edge lut show {lut.path}` "
            "lists what each ran in"
        )
    unknown = sum(entry.ran_in is None for entry in measured)
    if unknown:
        info(
            f"what {unknown} of {len(measured)} {kind} ran in is not known: the runtime does not say, or an earlier agent did not ask"
        )


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
