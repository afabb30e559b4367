"""What was measured before a network was handed over, in words."""

from __future__ import annotations

from lightnas_edge.records.run import ConfirmationRecord
from lightnas_edge.report import wording


def confirmed_text(found: ConfirmationRecord) -> str:
    """What became of the choice, and what the measurements made of the predictor."""
    number = wording.counted(len(found.networks), "network")
    text = f"Before a network was handed over, {number} of at most {found.allowed} were measured on {found.host}. "
    if not found.changed:
        text += "The choice did not change."
    elif found.networks or found.others:
        text += "The choice changed: the predictor learned from them, and another network was chosen."
    else:
        text += "The choice changed: networks that could not be measured are left out."
    if found.measured:
        text += " The network that was handed over is one of them."
    else:
        text += " None of them keeps every budget: the" if found.networks else " The"
        text += " network that was handed over was not measured."
    if found.others:
        text += f" The predictor also learned from {wording.counted(found.others, 'network')} of other budgets."
    factors = [
        f"{wording.label(metric)} {wording.percent(factor, 0)}"
        for metric, factor in found.interval_factor.items()
        if abs(factor - 1) >= 0.005
    ]
    if factors:
        text += f" Width of the predictor's intervals relative to before: {', '.join(factors)}."
    if found.failed:
        text += f" The board could not measure {wording.counted(len(found.failed), 'further network')}."
    return " ".join([text, *(f"{_capitalised(note)}." for note in found.notes)])


def _capitalised(note: str) -> str:
    """A note may begin with the name of a file, which stays as it is."""
    word = note.partition(" ")[0]
    return f"{note[:1].upper()}{note[1:]}" if word.isalpha() else note
