"""Places of labgrid: reserved for as long as a command runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from devices.errors import PlaceError
from devices.farm.notes import Note
from devices.inventory import read_inventory
from lightnas_edge.records.plain_text import clean_text

COORDINATOR = "127.0.0.1:20408"  # labgrid's default
_END_S = 10.0  # of the holder: it cancels the reservation meanwhile
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9_.-]+")  # as labgrid's filters
_LONGEST_LINE = 65536
Tags = tuple[str, ...]  # "board=agx-orin"
Holders = Sequence[tuple[str, str]]  # (place, who holds it)


@dataclass(frozen=True)
class Place:
    """A board of a farm. `host`: as `--host` takes it, the name in boards.toml where its address stands there."""

    name: str
    host: str


def coordinator_address() -> str:
    """Of labgrid's coordinator: LG_COORDINATOR, as for labgrid itself."""
    return os.environ.get("LG_COORDINATOR") or COORDINATOR


def tags_of(text: str) -> Tags:
    """`board=agx-orin,jetpack=6` as tags that a place must have.

    Raises:
        ValueError: it is no list of tags; the text says what one is.
    """
    tags = tuple(tag.strip() for tag in text.split(","))
    if not all(_TAG.fullmatch(tag) for tag in tags):
        raise ValueError(f"expected tags of a place, such as board=agx-orin or name=orin-1, not {text!r}")
    return tags


@contextlib.contextmanager
def reserved(
    wanted: Sequence[Tags],
    *,
    on_waiting: Callable[[Tags, Holders], None],
    on_given_back: Callable[[Sequence[str]], None],
    on_lost: Callable[[Tags, str], None],
) -> Iterator[tuple[Place, ...]]:
    """Places with these tags, one for each, once all of them are free at the same time.

    Args:
        on_waiting: called when the places that fit are held by others, and again when that changes.
        on_given_back: called with places that others may take while this command waits for the rest.
        on_lost: called from another thread with the reason, when the coordinator no longer knows a reservation.

    Raises:
        PlaceError: labgrid is missing, its coordinator does not answer, or too few places fit.
    """
    with _holder(["hold", coordinator_address(), *map(",".join, wanted)]) as (holder, log):
        places = _wait(holder, log, on_waiting, on_given_back)
        ending = threading.Event()
        watcher = threading.Thread(target=_watch, args=(holder, wanted, on_lost, ending), daemon=True)
        watcher.start()
        try:
            yield places
        finally:
            ending.set()
            _end(holder)
            watcher.join()  # it reads the other end of the pipe


def cancel(note: Note) -> bool:
    """Cancel a reservation; False: it had expired already.

    Raises:
        PlaceError: the coordinator does not answer, or refuses.
    """
    with _holder(["cancel", note.coordinator, note.token]) as (holder, log):
        return bool(_next(holder, log)["state"] == "cancelled")


@contextlib.contextmanager
def _holder(arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The process, which ends with the block; and what it logs."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "devices.farm.holder", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True, start_new_session=True, cwd=_place_of_packages(),
        )  # fmt: skip
        try:
            yield holder, log
        finally:
            _end(holder)
            assert holder.stdout is not None
            holder.stdout.close()


def _end(holder: subprocess.Popen[str]) -> None:
    """It cancels the reservation when its standard input ends."""
    assert holder.stdin is not None
    with contextlib.suppress(OSError):
        holder.stdin.close()
    try:
        holder.wait(_END_S)
    except subprocess.TimeoutExpired:
        holder.kill()
        holder.wait()


def _place_of_packages() -> Path:
    """`python -m` looks in the current folder first, which is the user's."""
    return Path(__file__).resolve().parent.parent.parent


def _wait(
    holder: subprocess.Popen[str],
    log: IO[str],
    on_waiting: Callable[[Tags, Holders], None],
    on_given_back: Callable[[Sequence[str]], None],
) -> tuple[Place, ...]:
    while True:
        said = _next(holder, log)
        if said["state"] == "reserved":
            return tuple(Place(clean_text(str(each["place"]), 200), _host(each)) for each in said["places"])
        if said["state"] == "waiting":
            holders = [(clean_text(place, 200), clean_text(who, 200)) for place, who in said["holders"]]
            on_waiting(tags_of(said["wanted"]), holders)
        elif said["state"] == "given back":
            on_given_back([clean_text(place, 200) for place in said["places"]])
        else:
            raise PlaceError(
                f"the reservation of {said['wanted']} was lost while waiting: {clean_text(str(said['reason']), 500)}"
            )


def _next(holder: subprocess.Popen[str], log: IO[str]) -> dict[str, Any]:
    """What the holder says next. Raises PlaceError: it failed."""
    assert holder.stdout is not None
    line = holder.stdout.readline(_LONGEST_LINE)
    if not line:
        holder.wait()
        log.seek(0)
        last = log.read()[-2000:].strip().splitlines()
        raise PlaceError(
            f"the process that holds the reservation ended: {clean_text(last[-1] if last else 'no reason', 500)}"
        )
    said: dict[str, Any] = json.loads(line)
    if said["state"] == "failed":
        raise PlaceError(clean_text(str(said["message"]), 1000), hint=clean_text(str(said["hint"]), 1000))
    return said


def _watch(
    holder: subprocess.Popen[str], wanted: Sequence[Tags], on_lost: Callable[[Tags, str], None], ending: threading.Event
) -> None:
    assert holder.stdout is not None
    line = holder.stdout.readline(_LONGEST_LINE)
    if ending.is_set():
        return
    if not line:
        on_lost(tuple(tag for tags in wanted for tag in tags), "the process that held it has ended")
        return
    said = json.loads(line)
    on_lost(tags_of(said["wanted"]), clean_text(str(said["reason"]), 500))


def _host(said: dict[str, Any]) -> str:
    address, port, user = str(said["address"]), int(said["port"]), str(said["username"])
    for name, board in read_inventory().items():
        if (board.host, board.port or 22) == (address, port) and board.user in (None, user or None):
            return f"{user}@{name}" if user and board.user is None else name
    shown = f"[{address}]" if ":" in address else address
    return f"{f'{user}@' if user else ''}{shown}{f':{port}' if port != 22 else ''}"
