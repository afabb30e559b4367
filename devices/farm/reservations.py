"""One reservation for each place that a command wants, and what the coordinator knows about it. Used by holder.py alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from devices.farm.notes import Note, kept

ANSWER_S = 10.0  # the coordinator: longest wait for one answer
OUT_OF_REACH_S = 45.0  # the coordinator: then the reservation is as good as lost
_WAITING, _ALLOCATED, _ACQUIRED = 0, 1, 2  # labgrid's ReservationState


class FailedError(Exception):
    """Nothing is reserved. Arguments: message, hint."""


class LostError(Exception):
    """The coordinator no longer knows a reservation. Arguments: the tags, the reason."""


class Want:
    """A place with some tags, and the reservation for it.

    Args:
        text: `board=agx-orin,jetpack=6`.
    """

    def __init__(self, session: Any, coordinator: str, text: str) -> None:
        self.text = text
        self.tags = dict(tag.split("=", 1) for tag in text.split(","))
        self.said: list[list[str]] | None = None  # the holders that were shown last
        self.session, self._coordinator = session, coordinator
        self._reservation: Any = None
        self._note = ExitStack()
        self._answered_s = 0.0

    @property
    def token(self) -> str | None:
        return None if self._reservation is None else str(self._reservation.token)

    @property
    def is_waiting(self) -> bool:
        return self._reservation is not None and self._reservation.state == _WAITING

    @property
    def is_held(self) -> bool:
        return self._reservation is not None and self._reservation.state in (_ALLOCATED, _ACQUIRED)

    @property
    def place(self) -> str:
        """Its name; only while it is held."""
        return str(self._reservation.allocations["main"])

    async def reserve(self) -> None:
        """Raises FailedError: labgrid refuses, or the reservation cannot be noted on this machine."""
        from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

        filters = {"main": messages.Reservation.Filter(filter=self.tags)}
        try:
            answer = await self.session.stub.CreateReservation(
                messages.CreateReservationRequest(filters=filters, prio=0.0)
            )
        except Exception as error:
            raise FailedError(f"labgrid refuses the reservation: {words(error)}", "") from error
        self._reservation = answer.reservation
        self._answered_s = asyncio.get_running_loop().time()
        try:
            self._note.enter_context(kept(Note(self._coordinator, answer.reservation.token, self.text)))
        except OSError as error:
            raise FailedError(
                f"the reservation cannot be noted: {error}", "free some space in the home directory"
            ) from error

    async def poll(self) -> None:
        """Keep the reservation for another minute, and learn its state. Raises LostError."""
        from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

        if self._reservation is None:
            return
        clock = asyncio.get_running_loop().time
        request = messages.PollReservationRequest(token=self._reservation.token)
        try:
            answer = await asyncio.wait_for(self.session.stub.PollReservation(request), ANSWER_S)
        except Exception as error:
            if "does not exist" in words(error) or clock() - self._answered_s > OUT_OF_REACH_S:
                raise LostError(self.text, words(error)) from error
            return
        self._reservation, self._answered_s = answer.reservation, clock()
        if not (self.is_waiting or self.is_held):
            raise LostError(self.text, "it has expired in the coordinator")

    async def cancel(self) -> None:
        """Give the place, or the turn for it, back."""
        token, self._reservation = self.token, None
        try:
            if token is not None:
                await cancel(self.session, token)
        finally:
            self._note.close()

    def holders(self, known: Sequence[Any], own: Sequence[str | None]) -> list[list[str]]:
        """[place, who holds it] of every place with these tags that others hold.

        Args:
            known: all reservations of the coordinator.
            own: tokens of this command's reservations.
        """
        owners = {each.token: each.owner for each in known}
        return [
            [place.name, place.acquired or owners.get(place.reservation, "another reservation")]
            for place in fitting(self.session, self.tags)
            if place.acquired or (place.reservation and place.reservation not in own)
        ]

    def is_wanted_by_others(self, known: Sequence[Any]) -> bool:
        """Whether the place that is held fits a reservation that waits; also one of this command."""
        waiting = (each for each in known if each.state == _WAITING)
        return any(
            place.name == self.place
            for each in waiting for place in fitting(self.session, dict(each.filters["main"].filter))
        )  # fmt: skip

    def address(self) -> dict[str, Any]:
        """Of the board in the place. Raises FailedError where no exporter says it."""
        name = self.place
        place = self.session.places[name]
        for exporter, groups in sorted(self.session.resources.items()):
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
        raise FailedError(
            f"the place {name} has no NetworkService that is available, so its address is not known",
            f"export one, and `labgrid-client -p {name} add-match`; `labgrid-client -p {name} show` lists what the place has",
        )


async def cancel(session: Any, token: str) -> None:
    """Cancel a reservation; the coordinator's errors are raised as they are."""
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    await session.stub.CancelReservation(messages.CancelReservationRequest(token=token))


async def reservations_of(session: Any) -> Sequence[Any]:
    """All that the coordinator knows; none where it does not answer."""
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    with suppress(Exception):
        answer = await asyncio.wait_for(session.stub.GetReservations(messages.GetReservationsRequest()), ANSWER_S)
        return list(answer.reservations)
    return []


def fitting(session: Any, tags: dict[str, str]) -> Iterator[Any]:
    """The places with these tags; labgrid counts the name as one."""
    for name, place in sorted(session.places.items()):
        if tags.items() <= {**place.tags, "name": name}.items():
            yield place


def require_places(session: Any, wants: Sequence[Want]) -> None:
    """Raises FailedError: no place has the tags, or the places are too few for all wants together, also when all are free."""
    for want in wants:
        if not any(fitting(session, want.tags)):
            shown = ", ".join(f"{name}={value}" for name, value in want.tags.items())
            raise FailedError(f"no place of labgrid's coordinator has {shown}", _known(session))
    taken: dict[str, int] = {}
    for number in range(len(wants)):
        if not _assign(session, wants, number, taken, set()):
            shown = " and ".join(want.text for want in wants)
            raise FailedError(
                f"{len(wants)} places are wanted, with {shown}, and labgrid's coordinator has too few that fit",
                _known(session),
            )


def _assign(session: Any, wants: Sequence[Want], number: int, taken: dict[str, int], seen: set[str]) -> bool:
    """Give a want a place of its own; earlier ones move to others where that helps (a matching of wants and places)."""
    for place in fitting(session, wants[number].tags):
        if place.name not in seen:
            seen.add(place.name)
            if place.name not in taken or _assign(session, wants, taken[place.name], taken, seen):
                taken[place.name] = number
                return True
    return False


def _known(session: Any) -> str:
    known = [
        f"{name} ({', '.join(f'{tag}={value}' for tag, value in sorted(place.tags.items())) or 'no tags'})"
        for name, place in sorted(session.places.items())
    ]
    return f"it has: {'; '.join(known)}" if known else "it has no places; `labgrid-client create` makes one"


def words(error: BaseException) -> str:
    """Of an error of gRPC or of Python."""
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__
