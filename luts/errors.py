"""Errors of look-up tables.

LutError (a LightnasEdgeError)
├── LutFormatError       not a table, or one this program cannot read   (ValueError)
└── LutMissError         the table lacks operators or networks          (KeyError)

Tables of different boards or states raise `lightnas_edge.errors.FingerprintError`.
"""

from __future__ import annotations

from lightnas_edge.errors import LightnasEdgeError


class LutError(LightnasEdgeError):
    """Base of the errors of look-up tables."""


class LutFormatError(LutError, ValueError):
    """The file is not a look-up table, or its header is damaged, in other units or of a newer schema."""


class LutMissError(LutError, KeyError):
    """Operators or networks that the table does not hold."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])
