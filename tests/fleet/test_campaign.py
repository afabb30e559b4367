"""One job on several virtual units, without the command line: what one unit's trouble does to the others."""

import json
import threading
import time

import pytest

import devices
import luts
from devices import BoardUnreachableError, Campaign, InventoryError
from devices.cache import lock_holder
from devices.virtual import VirtualConnection
from lightnas_edge.errors import FleetError
from lightnas_edge.fleet import Unit, campaign, measure_fleet
from lightnas_edge.fleet.work import WorkQueue
from lightnas_edge.measuring import MeasurementProtocol, Settings, sentinels, write_profile_job
from lightnas_edge.space import load_space
from tests.devices.conftest import wait_for
from tests.fleet.counting import places, visits_of
from tests.fleet.units import hosts

SPACE = load_space("tiny")
OPERATORS = SPACE.shaped_operators()
SENTINELS = [shaped.key for shaped in sentinels(SPACE)]


@pytest.fixture(autouse=True)
def home(agent_home):
    return agent_home


def unit(number):
    return Unit(hosts(number), devices.connect(hosts(number)), f"unit{number}")


def job(folder, operators=OPERATORS, rounds=4):
    settings = Settings(backend="simulated", precision="fp16", protocol=MeasurementProtocol(rounds=rounds))
    return write_profile_job(folder, SPACE, settings, operators=operators)


class Broken(VirtualConnection):
    """A board on which a command fails in a way that concerns this side, once another board is at work."""

    other = None

    def start(self, *arguments, **options):
        while not list((self.other.root / "home/.lightnas-edge/jobs").glob("*/journal.jsonl")):
            time.sleep(0.01)
        raise InventoryError("this side has an error")


def test_an_error_of_this_side_stops_every_agent_and_is_raised(tmp_path):
    working, broken = unit(1), unit(2)
    broken.connection = Broken(hosts(2))
    broken.connection.other = working.connection

    with pytest.raises(InventoryError, match="this side has an error"):
        measure_fleet([working, broken], job(tmp_path / "job", rounds=2000), tmp_path / "units", each=True)

    (status,) = (working.connection.root / "home/.lightnas-edge/jobs").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"


def test_an_agent_that_measures_for_a_host_that_died_is_waited_for_and_its_work_is_not_repeated(tmp_path):
    whole = job(tmp_path / "job")
    before = devices.connect(hosts(1))
    Campaign(before, whole.folder).start()
    wait_for(lambda: lock_holder(before) or devices.remote_jobs(before)[0], "the agent to hold the board")

    result = measure_fleet([unit(1), unit(2)], whole, tmp_path / "units")

    assert not result.lost and not result.left
    assert set(visits_of(*result.tables.values()).values()) == {4}
    assert all(set(places(lut).values()) == {1} for lut in result.tables.values())


def test_a_unit_that_joins_for_the_last_operator_measures_the_sentinels_too(tmp_path):
    last = next(shaped for shaped in reversed(OPERATORS) if shaped.key not in SENTINELS)
    others = [shaped for shaped in OPERATORS if shaped is not last]
    measure_fleet([unit(1)], job(tmp_path / "first", others), tmp_path / "units")

    result = measure_fleet([unit(2)], job(tmp_path / "second"), tmp_path / "units")

    joined = result.tables[hosts(2)]
    assert set(joined.entries) == {last.key, *SENTINELS}
    assert luts.compare_units(result.tables).keys


@pytest.mark.parametrize(("measured", "takes_part"), [(1, False), (40, True)])
def test_what_a_lost_unit_measured_counts_once_it_can_be_compared_with_the_others(tmp_path, measured, takes_part):
    """One visit of one operator does not tell how the units differ, which must not keep the others from a pooled table."""
    whole = job(tmp_path / "job")
    units = tmp_path / "units"
    measure_fleet([unit(2)], whole, units)
    (lost,) = units.glob("*.lut.jsonl")
    lost.write_bytes(b"".join(lost.read_bytes().splitlines(keepends=True)[: 1 + measured]))

    result = measure_fleet([unit(1)], whole, units)

    assert set(result.tables) == {hosts(1), *([lost.name.removesuffix(".lut.jsonl")] if takes_part else [])}
    found = visits_of(*result.tables.values())
    assert not result.left and {found[shaped.key] for shaped in OPERATORS if shaped.key not in SENTINELS} == {4}
    assert luts.read(lost).visits.is_measured.sum() == measured
    if takes_part:
        assert luts.compare_units(result.tables).keys


class ForTheFirst(WorkQueue):
    """The second unit finds no work."""

    def take(self, host):
        return super().take(host) if host == hosts(1) else None


def test_measuring_again_drops_what_every_board_holds_also_one_that_takes_no_packet_or_is_not_named(tmp_path):
    """Three units measured; then two of them measure again, and one of those finds no work."""
    whole = job(tmp_path / "job")
    measure_fleet([unit(1), unit(2), unit(3)], whole, tmp_path / "units")

    again = measure_fleet([unit(1), unit(2)], whole, tmp_path / "units", fresh=True, queue_of=ForTheFirst)
    later = measure_fleet([unit(1), unit(2), unit(3)], whole, tmp_path / "units")

    assert [outcome.packets for outcome in again.outcomes][1] == 0
    sessions = [{visit.session for lut in found.tables.values() for visit in lut.visits} for found in (again, later)]
    assert sessions[0] == sessions[1], "an old journal came back from a board"
    assert not list((tmp_path / "units").glob("*.outdated"))


class OutOfReach(VirtualConnection):
    """A board that stops answering once another one is at work, and keeps whoever asks it waiting."""

    other = None
    asked = threading.Event()

    def read_part(self, *arguments, **options):
        if list((self.other.root / "home/.lightnas-edge/jobs").glob("*/journal.jsonl")):
            self.asked.set()
            threading.Event().wait()
        return super().read_part(*arguments, **options)


def test_stopping_leaves_a_board_behind_that_does_not_answer_and_says_what_to_do(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(campaign, "STOPPING_S", 1.0)
    working, gone = unit(1), unit(2)
    gone.connection = OutOfReach(hosts(2))
    gone.connection.other = working.connection

    def interrupt(progress):
        if gone.connection.asked.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_fleet(
            [working, gone], job(tmp_path / "job", rounds=2000), tmp_path / "units", each=True, on_progress=interrupt
        )

    assert f"`lightnas-edge pull --host {hosts(2)}` fetches" in caplog.text
    (status,) = (working.connection.root / "home/.lightnas-edge/jobs").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"


def test_two_names_that_would_write_one_journal_are_refused(tmp_path):
    with pytest.raises(FleetError, match=r"orin_1 and orin-1 would share the journal orin-1\.lut\.jsonl"):
        measure_fleet([Unit("orin_1", None), Unit("orin-1", None)], job(tmp_path / "job"), tmp_path / "units")


def test_where_all_boards_are_lost_the_error_says_what_to_do_about_each(tmp_path):
    lost = [
        Unit(f"orin{number}", None, lost=BoardUnreachableError(f"reason {number}\nmore", hint=f"remedy {number}"))
        for number in (1, 2)
    ]

    with pytest.raises(FleetError, match=r"orin1: reason 1\n  orin2: reason 2$") as found:
        measure_fleet(lost, job(tmp_path / "job"), tmp_path / "units")

    assert found.value.hint.splitlines() == [
        "remedy 1",
        "remedy 2",
        "the same command continues from what was measured",
    ]


def test_a_line_of_a_journal_is_read_once_however_many_packets_follow(tmp_path, monkeypatch):
    """Journals reach hundreds of megabytes."""
    taken = []
    parse = luts.Visit.model_validate_json

    def counting(line):
        taken.append(line)
        return parse(line)

    monkeypatch.setattr(luts.Visit, "model_validate_json", counting)

    result = measure_fleet([unit(1)], job(tmp_path / "job", rounds=3), tmp_path / "units")

    (outcome,), (lut,) = result.outcomes, result.tables.values()
    assert outcome.packets >= 3
    assert len(taken) == len(set(taken)) == len(lut.path.read_bytes().splitlines()) - 1
