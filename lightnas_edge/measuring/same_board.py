"""Whether a board is the one that a predictor is of, asked before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import devices
from devices import AgentFailedError, Connection
from lightnas_edge.records.differences import require_equal_fingerprints

# Fields that follow from a job and not from the board.
_OF_A_JOB = ("precision", "dialect", "int8_instructions", "batch", "threads", "cuda_graph", "streams", "protocol")


def require_same_board(connection: Connection, fingerprint: Mapping[str, Any], what: str) -> None:
    """Compare the board as it is now with a fingerprint, except for what a job decides.

    Args:
        what: has that fingerprint: "the predictor".

    Raises:
        FingerprintError: it is another board, or in another state; lists the fields.
        AgentFailedError: the engine does not work there.
        DeviceError: the board is out of reach.
    """
    found = devices.probe(connection, str(fingerprint.get("backend") or connection.backend))
    own = {name: value for name, value in fingerprint.items() if name not in _OF_A_JOB}
    if found.error is not None:  # the engine's fields are not known then
        own = {name: value for name, value in own.items() if name in found.fingerprint}
    require_equal_fingerprints(
        own, {name: value for name, value in found.fingerprint.items() if name not in _OF_A_JOB},
        f"{what} and {connection.name}",
        hint="name the board that it was measured on, and restore the state that differs (power mode, clocks, version of the "
        "engine); or fit a predictor for this board",
    )  # fmt: skip
    if found.error is not None:
        raise AgentFailedError(found.error.message, hint=found.error.remedy)
