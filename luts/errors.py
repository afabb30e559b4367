"""Errors of look-up tables.

LutError (a LightnasEdgeError)
├── LutFormatError       not a table, or one this program cannot read   (ValueError)
└── LutMissError         the table lacks operators or networks          (KeyError)

Tables of different boards or states raise `lightnas_edge.errors.FingerprintError`.
"""

from __future__ import annotations

from lightnas_edge.errors import FingerprintError, LightnasEdgeError


class LutError(LightnasEdgeError):
    """Base of the errors of look-up tables."""


class LutFormatError(LutError, ValueError):
    """The file is not a look-up table, or its header is damaged, in other units or of a newer schema."""


class LutMissError(LutError, KeyError):
    """Operators or networks that the table does not hold."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


def networks_of_several_spaces(where: str) -> FingerprintError:
    return FingerprintError(
        f"{where} hold networks of different search spaces, or of different numbers of classes: equal names are other networks there",
        hint="keep one table for each space, also for each version of a space file",
    )
