"""`--place`: a command on boards of a farm, which are reserved while it runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

from devices import farm
from lightnas_edge.cli._console import UsageError, info, warn


def run_on_places(arguments: argparse.Namespace) -> int:
    """Run the command of these arguments; with `--place`, its hosts are the boards that are reserved."""
    wanted = vars(arguments).get("place") or []
    with contextlib.ExitStack() as stack:
        if wanted:
            given = vars(arguments).setdefault("given_options", set())
            if "host" in given:
                raise UsageError("--host and --place both name boards", hint="give one of them")
            if len(wanted) > 1 and not arguments.takes_several_hosts:
                raise UsageError("--place: this command takes one board", hint="give it once")
            arguments.host = stack.enter_context(_reserved(wanted))
            given.add("host")
        code: int = arguments.run(arguments)
        return code


@contextlib.contextmanager
def _reserved(wanted: Sequence[farm.Tags]) -> Iterator[str]:
    """The hosts, as `--host` takes them."""

    def waiting(tags: farm.Tags, holders: farm.Holders) -> None:
        named = "; ".join(f"{place} is held by {who}" for place, who in holders)
        info(f"waiting for a place with {','.join(tags)}: {named or 'none is free'}")

    def given_back(places: Sequence[str]) -> None:
        info(f"gave {' and '.join(places)} back while it waits: another command may want the same places")

    def lost(tags: farm.Tags, reason: str) -> None:
        warn(f"the reservation of {','.join(tags)} is lost, and others may use the board: {reason}; stopping")
        os.kill(os.getpid(), signal.SIGINT)  # agents stop, and what was measured is kept

    with farm.reserved(wanted, on_waiting=waiting, on_given_back=given_back, on_lost=lost) as places:
        for place in places:
            info(f"reserved {place.name}: {place.host}")
        yield ",".join(place.host for place in places)
    for place in places:
        info(f"{place.name} is free again")
