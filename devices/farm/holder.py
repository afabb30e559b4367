"""Holds reservations in labgrid's coordinator for as long as its parent keeps standard input open.

    python -m devices.farm.holder hold COORDINATOR TAG=VALUE,... TAG=VALUE,...    one JSON object a line: what happens
    python -m devices.farm.holder cancel COORDINATOR TOKEN

A process of its own: labgrid and gRPC stay out of the program that measures, and when that is killed this one sees it
and cancels. A place is reserved and never acquired: labgrid keeps an acquired place for a client that has died, for
ever, and drops a reservation that nobody has polled for a minute. Meanwhile nobody but its owner can acquire the place.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from devices.farm.reservations import FailedError, LostError, Want, cancel, require_places, reservations_of, words

WAITING_POLL_S = 1.0
HOLDING_POLL_S = 10.0  # of the 60 s after which the coordinator drops a reservation
PATIENCE_S = (
    1.0,
    6.0,
)  # holding some places and waiting for others; drawn at random, so that two commands do not yield at once
_LONGEST_CANCEL_S = 5.0


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
    except FailedError as error:
        _say(state="failed", message=error.args[0], hint=error.args[1])
        return 1
    return 0


def _session(coordinator: str, loop: asyncio.AbstractEventLoop) -> Any:
    try:
        from labgrid.remote.client import ServerError, start_session
        from labgrid.remote.generated import labgrid_coordinator_pb2  # noqa: F401  # versions before 25 do not have it
    except ImportError as error:
        raise FailedError(
            f"labgrid cannot be used: {error}", "install it next to lightnas-edge: pip install 'lightnas-edge[labgrid]'"
        ) from error
    try:
        return start_session(coordinator, extra={}, loop=loop)
    except (ServerError, OSError) as error:
        raise FailedError(
            f"labgrid's coordinator at {coordinator} does not answer: {error}",
            "start it, or name another one in the environment: LG_COORDINATOR=HOST:PORT",
        ) from error


async def _cancel(session: Any, token: str) -> None:
    try:
        await cancel(session, token)
    except Exception as error:
        if "does not exist" not in words(error):
            raise FailedError(f"the reservation {token} cannot be cancelled: {words(error)}", "") from error
        _say(state="expired")
        return
    _say(state="cancelled")


async def _hold(session: Any, coordinator: str, texts: Sequence[str]) -> None:
    """Until the parent ends, or a reservation is lost."""
    wants = [Want(session, coordinator, text) for text in texts]
    require_places(session, wants)
    ended = _end_of_parent(asyncio.get_running_loop())
    try:
        await _collect(wants, ended)
        if not ended():
            _say(state="reserved", places=[want.address() for want in wants])
        await _keep(wants, ended)
    except LostError as error:
        _say(state="lost", wanted=error.args[0], reason=error.args[1])
    finally:
        await asyncio.gather(*(_give_back(want) for want in wants))


async def _collect(wants: Sequence[Want], ended: Callable[[], bool]) -> None:
    """Until all places are held at once.

    Whoever holds some places and waits for others goes to the end of the queue for what it holds, after a random time and where
    anybody waits for it. So no commands wait for each other for ever.
    """
    clock = asyncio.get_running_loop().time
    for want in wants:
        await want.reserve()
    yields_s: float | None = None  # the time when what is held is given up
    while not ended():
        for want in wants:
            await want.poll()
        waiting, held = [want for want in wants if want.is_waiting], [want for want in wants if want.is_held]
        if not waiting:
            return
        if not held:
            yields_s = None
        elif yields_s is None:
            yields_s = clock() + random.uniform(*PATIENCE_S)
        elif clock() > yields_s:
            yields_s = None
            await _yield(held, await reservations_of(wants[0].session))
        for want in waiting:
            holders = want.holders(await reservations_of(want.session), [other.token for other in wants])
            if holders != want.said:
                _say(state="waiting", wanted=want.text, holders=holders)
                want.said = holders
        await asyncio.sleep(WAITING_POLL_S)


async def _yield(held: Sequence[Want], known: Sequence[Any]) -> None:
    given_back = []
    for want in held:
        place = want.place
        if want.is_wanted_by_others(known):
            await want.cancel()
            await want.reserve()
            if want.is_waiting or want.place != place:
                given_back.append(place)
    if given_back:
        _say(state="given back", places=given_back)


async def _keep(wants: Sequence[Want], ended: Callable[[], bool]) -> None:
    clock = asyncio.get_running_loop().time
    polled_s = clock()
    while not ended():
        if clock() - polled_s >= HOLDING_POLL_S:
            polled_s = clock()
            for want in wants:
                await want.poll()
                if not want.is_held:
                    raise LostError(want.text, "it has expired in the coordinator")
        await asyncio.sleep(WAITING_POLL_S)


async def _give_back(want: Want) -> None:
    """It expires by itself where the coordinator does not answer."""
    with suppress(Exception):
        await asyncio.wait_for(want.cancel(), _LONGEST_CANCEL_S)


def _end_of_parent(loop: asyncio.AbstractEventLoop) -> Callable[[], bool]:
    """Whether standard input has ended, or the parent has died with the pipe still open in another process."""
    ended, parent = asyncio.Event(), os.getppid()

    def read() -> None:
        if not os.read(0, 4096):
            ended.set()
            loop.remove_reader(0)

    loop.add_reader(0, read)
    return lambda: ended.is_set() or os.getppid() != parent


def _say(**what: object) -> None:
    with suppress(OSError):  # nobody reads any more
        print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
