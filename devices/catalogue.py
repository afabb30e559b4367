"""What boards are: the files of `devices/catalog`, read and checked.

Adding a board is adding a file. Every fact of a file has its source in `sources`, with how far it can be trusted:

    src    read in source code or an original document
    field  seen in a user's log or issue
    calc   computed from a sourced number or log
    gk     general knowledge, no source found

Nothing in these files was read on a board by us: docs/boards.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable

from devices.errors import DeviceError
from lightnas_edge.errors import RecordError
from lightnas_edge.records.board import BoardModel
from profiler.board import is_number, is_part


class CatalogueError(DeviceError, ValueError):
    """Faults in the files of the catalogue, all in one message."""


def load_catalogue(folder: Traversable | None = None) -> dict[str, BoardModel]:
    """All boards by name, sorted.

    Raises:
        CatalogueError: any file with any fault; the message names them all.
    """
    folder = folder if folder is not None else resources.files("devices") / "catalog"
    boards: dict[str, BoardModel] = {}
    faults: list[str] = []
    files = {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}
    for name, file in sorted(files.items()):
        try:
            board = BoardModel.parse(file.read_bytes(), file.name)
        except RecordError as err:
            faults.append(str(err))
            continue
        boards[name] = board
        if board.name != name:
            faults.append(f"{file.name}: name {board.name!r} differs from the file's name")
    if not faults and sum(board.identity.device_tree_model is None for board in boards.values()) != 1:
        faults.append("expected one board without identity.device_tree_model, the generic machine")
    if faults:
        raise CatalogueError("the board catalogue has errors\n" + "\n".join(faults))
    return boards


def match(
    compatible: Sequence[str], model: str | None, boards: Mapping[str, BoardModel] | None = None
) -> BoardModel | None:
    """The board that a device tree describes, or None.

    Args:
        compatible: entries of /proc/device-tree/compatible.
        model: text of /proc/device-tree/model; used only where `compatible` names no board.
        boards: the catalogue; read when it is not given.
    """
    boards = boards if boards is not None else load_catalogue()
    # As the agent does it: profiler/board.py.
    parts = [part for entry in compatible for part in re.split("[,+]", entry) if part]
    fits = [
        ((is_number(beginning), len(beginning)), board)
        for board in boards.values()
        for beginning in board.identity.compatible
        if any(is_part(beginning, part) for part in parts)
    ]
    if fits:
        return max(fits, key=lambda fit: fit[0])[1]
    text = (model or "").rstrip("\0")
    return next(
        (board for board in boards.values() if (model := board.identity.device_tree_model) and re.search(model, text)),
        None,
    )
