"""What can be wrong with a look-up table.

LutError
├── LutFormatError       not a table, or one this program cannot read   (ValueError)
├── LutFingerprintError  tables of different boards or states would mix (ValueError)
└── LutMissError         the table does not hold what was asked for     (KeyError)
"""

from __future__ import annotations


class LutError(Exception):
    """Base of the family. `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class LutFormatError(LutError, ValueError):
    """The file is not a look-up table, or its header is damaged, in other units or of a newer schema."""


class LutFingerprintError(LutError, ValueError):
    """Measurements of different boards, states, engines or protocols; the message lists the fields."""


class LutMissError(LutError, KeyError):
    """Operators or networks that the table does not hold."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])
