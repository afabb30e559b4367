"""Holds one reservation in labgrid's coordinator for as long as its parent keeps standard input open.

    python -m devices.farm.holder hold COORDINATOR TAG=VALUE...      one JSON object a line: what happens
    python -m devices.farm.holder cancel COORDINATOR TOKEN

A process of its own: labgrid and gRPC stay out of the program that measures, and when that is killed this one sees it
and cancels. The place is reserved and never acquired: labgrid keeps an acquired place for a client that has died, for
ever, and drops a reservation that nobody has polled for a minute. Meanwhile nobody but its owner can acquire the place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from devices.farm.notes import Note, kept

WAITING_POLL_S = 1.0
HOLDING_POLL_S = 10.0  # of the 60 s after which the coordinator drops a reservation
OUT_OF_REACH_S = 45.0  # the coordinator: then the reservation is as good as lost
_LONGEST_CANCEL_S = 5.0
_WAITING, _ALLOCATED, _ACQUIRED = 0, 1, 2  # labgrid's ReservationState


class _FailedError(Exception):
    """Nothing is reserved. Arguments: message, hint."""


def main(argv: list[str]) -> int:
    """`hold` or `cancel`; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    mode, coordinator, *rest = argv
    try:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        session = _session(coordinator, loop)
        try:
            work: Awaitable[None] = _cancel(session, rest[0]) if mode == "cancel" else _hold(session, coordinator, rest)
            loop.run_until_complete(work)
        finally:
            with suppress(Exception):
                loop.run_until_complete(asyncio.wait_for(session.stop(), _LONGEST_CANCEL_S))
                loop.run_until_complete(session.close())
    except _FailedError as error:
        _say(state="failed", message=error.args[0], hint=error.args[1])
        return 1
    return 0


def _session(coordinator: str, loop: asyncio.AbstractEventLoop) -> Any:
    try:
        from labgrid.remote.client import ServerError, start_session
        from labgrid.remote.generated import labgrid_coordinator_pb2  # noqa: F401  # versions before 25 do not have it
    except ImportError as error:
        raise _FailedError(
            f"labgrid cannot be used: {error}", "install it next to lightnas-edge: pip install 'lightnas-edge[labgrid]'"
        ) from error
    try:
        return start_session(coordinator, extra={}, loop=loop)
    except (ServerError, OSError) as error:
        raise _FailedError(
            f"labgrid's coordinator at {coordinator} does not answer: {error}",
            "start it, or name another one in the environment: LG_COORDINATOR=HOST:PORT",
        ) from error


async def _cancel(session: Any, token: str) -> None:
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    try:
        await session.stub.CancelReservation(messages.CancelReservationRequest(token=token))
    except Exception as error:
        if "does not exist" not in _words(error):
            raise _FailedError(f"the reservation {token} cannot be cancelled: {_words(error)}", "") from error
        _say(state="expired")
        return
    _say(state="cancelled")


async def _hold(session: Any, coordinator: str, tags: list[str]) -> None:
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    wanted = dict(tag.split("=", 1) for tag in tags)
    _require_place(session, wanted)
    request = messages.CreateReservationRequest(filters={"main": messages.Reservation.Filter(filter=wanted)}, prio=0.0)
    try:
        reservation = (await session.stub.CreateReservation(request)).reservation
    except Exception as error:
        raise _FailedError(f"labgrid refuses the reservation: {_words(error)}", "") from error
    ended = _end_of_parent(asyncio.get_running_loop())
    try:
        with kept(Note(coordinator, reservation.token, ",".join(tags))):
            try:
                await _poll(session, reservation, wanted, ended)
            finally:
                with suppress(Exception):  # it expires by itself
                    request = messages.CancelReservationRequest(token=reservation.token)
                    await asyncio.wait_for(session.stub.CancelReservation(request), _LONGEST_CANCEL_S)
    except OSError as error:
        raise _FailedError(
            f"the reservation cannot be noted: {error}", "free some space in the home directory"
        ) from error


async def _poll(session: Any, reservation: Any, wanted: dict[str, str], ended: Callable[[], bool]) -> None:
    """Until the parent ends, or the reservation is lost."""
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    loop = asyncio.get_running_loop()
    held, said, answered_s, polled_s = False, None, loop.time(), -HOLDING_POLL_S
    while not ended():
        if not held or loop.time() - polled_s >= HOLDING_POLL_S:
            polled_s = loop.time()
            try:
                request = messages.PollReservationRequest(token=reservation.token)
                reservation = (
                    await asyncio.wait_for(session.stub.PollReservation(request), HOLDING_POLL_S)
                ).reservation
                answered_s = loop.time()
            except Exception as error:
                if "does not exist" in _words(error) or loop.time() - answered_s > OUT_OF_REACH_S:
                    _say(state="lost", reason=_words(error))
                    return
        if held and reservation.state not in (_ALLOCATED, _ACQUIRED):
            _say(state="lost", reason="it has expired in the coordinator")
            return
        if not held and reservation.state in (_ALLOCATED, _ACQUIRED):
            _say(state="reserved", **_address(session, reservation.allocations["main"]))
            held = True
        if not held and reservation.state == _WAITING:
            holders = await _holders(session, wanted)
            if holders != said:
                _say(state="waiting", holders=holders)
                said = holders
        await asyncio.sleep(WAITING_POLL_S)


def _fitting(session: Any, wanted: dict[str, str]) -> Iterator[Any]:
    """The places with these tags; labgrid counts the name as one."""
    for name, place in sorted(session.places.items()):
        if wanted.items() <= {**place.tags, "name": name}.items():
            yield place


def _require_place(session: Any, wanted: dict[str, str]) -> None:
    if any(_fitting(session, wanted)):
        return
    shown = ", ".join(f"{name}={value}" for name, value in wanted.items())
    known = [
        f"{name} ({', '.join(f'{tag}={value}' for tag, value in sorted(place.tags.items())) or 'no tags'})"
        for name, place in sorted(session.places.items())
    ]
    raise _FailedError(
        f"no place of labgrid's coordinator has {shown}",
        f"it has: {'; '.join(known)}" if known else "it has no places; `labgrid-client create` makes one",
    )


async def _holders(session: Any, wanted: dict[str, str]) -> list[list[str]]:
    """[place, who holds it] of every place with these tags."""
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    owners = {}
    with suppress(Exception):
        found = await session.stub.GetReservations(messages.GetReservationsRequest())
        owners = {each.token: each.owner for each in found.reservations}
    return [
        [place.name, place.acquired or owners.get(place.reservation, "another reservation")]
        for place in _fitting(session, wanted)
        if place.acquired or place.reservation
    ]


def _address(session: Any, name: str) -> dict[str, Any]:
    """Of the board in a place. Raises _FailedError where no exporter says it."""
    place = session.places[name]
    for exporter, groups in sorted(session.resources.items()):
        for group, resources in sorted(groups.items()):
            for resource_name, resource in sorted(resources.items()):
                if not resource.data or resource.cls != "NetworkService":
                    continue
                if resource.avail and place.getmatch((exporter, group, resource.cls, resource_name)) is not None:
                    found = resource.params
                    return {
                        "place": name, "address": str(found["address"]), "username": str(found.get("username") or ""),
                        "port": int(found.get("port") or 22),
                    }  # fmt: skip
    raise _FailedError(
        f"the place {name} has no NetworkService that is available, so its address is not known",
        f"export one, and `labgrid-client -p {name} add-match`; `labgrid-client -p {name} show` lists what the place has",
    )


def _end_of_parent(loop: asyncio.AbstractEventLoop) -> Callable[[], bool]:
    """Whether standard input has ended, or the parent has died with the pipe still open in another process."""
    ended, parent = asyncio.Event(), os.getppid()

    def read() -> None:
        if not os.read(0, 4096):
            ended.set()
            loop.remove_reader(0)

    loop.add_reader(0, read)
    return lambda: ended.is_set() or os.getppid() != parent


def _words(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__


def _say(**what: object) -> None:
    with suppress(OSError):  # nobody reads any more
        print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
