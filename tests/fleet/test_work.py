"""The work of a fleet: packets that cover it once, and what is left of it."""

import threading

import pytest

from lightnas_edge.fleet.work import Packet, Visits, WorkQueue, deal, left
from tests.fleet.counting import total

KEYS = [f"op{number}" for number in range(76)]
SENTINELS = [f"sentinel{number}" for number in range(12)]


@pytest.mark.parametrize("units", (1, 2, 3, 5))
@pytest.mark.parametrize("count", (1, 2, 7, 76))
def test_packets_cover_the_work_once(units, count):
    work = {key: Visits(25, 2) for key in KEYS[:count]}

    packets = deal({**work, **{key: Visits(25, 2) for key in SENTINELS}}, SENTINELS, 25, units)

    assert total(packets) == work
    assert len(packets) >= units


def test_every_packet_is_a_share_of_everything_and_the_sentinels_get_about_as_many_rounds_as_the_others():
    work = {key: Visits(25) for key in [*KEYS, *SENTINELS]}

    packets = deal(work, SENTINELS, 25, 3)

    positions = [sorted(KEYS.index(key) for key in packet.work) for packet in packets]
    assert all(place[0] < 12 and place[-1] >= 64 for place in positions)
    assert 25 <= sum(packet.sentinel_rounds for packet in packets) <= 40
    assert max(packet.visits for packet in packets) <= 1.25 * min(packet.visits for packet in packets)


@pytest.mark.parametrize("units", (2, 3, 5))
@pytest.mark.parametrize("count", (5, 12, 20, 76))
def test_every_unit_gets_the_same_number_of_packets(units, count):
    assert len(deal({key: Visits(25) for key in KEYS[:count]}, SENTINELS, 25, units)) % units == 0


def test_work_of_the_sentinels_alone_is_dealt_too():
    packets = deal({key: Visits(9) for key in SENTINELS[:4]}, SENTINELS, 25, 2)

    assert total(packets) == {key: Visits(9) for key in SENTINELS[:4]}


def test_what_several_journals_hold_is_no_longer_left():
    work = {"a": Visits(10, 2), "b": Visits(10), "c": Visits(10)}

    assert left(work, {"a": Visits(4, 1), "b": Visits(10)}, {"a": Visits(3)}) == {"a": Visits(3, 1), "c": Visits(10)}


def test_a_unit_that_has_nothing_to_do_waits_for_what_a_lost_one_gives_back():
    queue = WorkQueue([Packet({"a": Visits(5)}, 0)])
    taken = queue.take("orin1")
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.take("orin1")))
    waiting.start()

    queue.finish(Packet({"a": Visits(2)}, 0))
    waiting.join(10)

    assert taken.work == {"a": Visits(5)} and found[0].work == {"a": Visits(2)}
    queue.finish()
    assert queue.take("orin1") is None


def test_a_queue_that_is_stopped_gives_nothing_and_lets_nobody_wait():
    queue = WorkQueue([Packet({"a": Visits(5)}, 0), Packet({"b": Visits(5)}, 0)])
    queue.take("orin1")

    queue.stop()

    assert queue.take("orin1") is None
