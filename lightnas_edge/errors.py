"""Every error that lightnas-edge raises on purpose.

    LightnasEdgeError
    ├── RecordError           a file is not the record that it should be       (ValueError)
    ├── SpaceError            a search space file or name is wrong             (ValueError)
    ├── ArchitectureError     an architecture does not fit its space           (ValueError)
    ├── BudgetError           a budget that is no budget: zero, negative, nan  (ValueError)
    ├── InfeasibleBudgetError a budget no network of the space can keep
    ├── DataError             a data set that cannot be read or used           (ValueError)
    ├── PredictorError        a predictor file is wrong or does not fit        (ValueError)
    ├── FingerprintError      records of different boards or states would mix  (ValueError)
    ├── RunError              a run directory is missing a part, or is in use
    │   ├── StaleRecordError  a part was made from other files than those in the run
    │   └── ConfigError       settings of a search or a training that cannot be
    ├── ModelError            an ONNX file that cannot be read, given shapes or sent   (ValueError)
    ├── DivergedError         training left the finite numbers
    ├── ExportError           the exported graph is wrong or unsupported
    │   └── CalibrationError  images that give no ranges, or a layer that 8 bits cannot hold
    ├── VerifyError           the verification could not be carried out
    └── FleetError            boards that cannot share a job, or all of them were lost

`luts.LutError` and `devices.DeviceError` are branches of the same tree, in the packages that raise them.
The command line answers all of them alike: message on stderr, exit code from `exit_code`.

Messages say what happened and where; `hint`, when present, says what to do next.
"""

from __future__ import annotations


class LightnasEdgeError(Exception):
    """Base of the family. `hint` is one or more lines that say what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RecordError(LightnasEdgeError, ValueError):
    """A file that is missing, unreadable, of another kind or schema, or with wrong content; all faults in one message."""


class SpaceError(LightnasEdgeError, ValueError):
    """A search space that cannot be found, read or built."""

    exit_code = 2


class ArchitectureError(LightnasEdgeError, ValueError):
    """An architecture that does not fit its space."""

    exit_code = 2


class BudgetError(LightnasEdgeError, ValueError):
    """A budget that is not a positive, finite number."""

    exit_code = 2


class InfeasibleBudgetError(LightnasEdgeError):
    """A sensible budget that no network of the space can keep."""

    exit_code = 3


class DataError(LightnasEdgeError, ValueError):
    """A data set that cannot be found, read or used."""


class PredictorError(LightnasEdgeError, ValueError):
    """A predictor that cannot be read, fitted or applied."""


class FingerprintError(LightnasEdgeError, ValueError):
    """Records of different boards, states or protocols that must not mix."""


class RunError(LightnasEdgeError):
    """A run directory that lacks a part, holds a damaged one, or belongs to another command."""


class StaleRecordError(RunError):
    """A record of a run that was made from other files than those that the run holds now."""


class ConfigError(RunError):
    """Settings of a search, a training or a refinement that cannot be; all faults in one message."""

    exit_code = 2


class ModelError(LightnasEdgeError, ValueError):
    """An ONNX file that cannot be read, has no fixed shapes, or that a runtime does not read."""

    exit_code = 2


class DivergedError(LightnasEdgeError):
    """A loss that is not a finite number."""


class ExportError(LightnasEdgeError):
    """An ONNX file that could not be written, or does not compute what PyTorch computes."""


class CalibrationError(ExportError):
    """Images from which no ranges can be read, a range without an end, or a layer that is zero in 8 bits."""


class VerifyError(LightnasEdgeError):
    """A verification that could not be carried out; says nothing about the budget."""


class FleetError(LightnasEdgeError):
    """Boards that cannot share a job, or that were all lost before it was finished."""
