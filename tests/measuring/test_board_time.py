"""How long a board was occupied, from the times in its table."""

import pytest

import luts
from lightnas_edge.measuring.board_time import board_time, spent_s
from tests.luts.journals import FINGERPRINT, header, visit, write

ARCHITECTURE = {"kind": "architecture", "schema": 1, "space": "tiny", "operators": ["skip"]}


def timed(path, visits, *, simulated=False):
    """A table with visits of the given (session, key, start); `net-1` is a network, the others are operators."""
    rows = [
        visit(
            key, [2.0, 3.0], session=session, round=number, t_s=start_s,
            **({"architecture": ARCHITECTURE} if key == "net-1" else {}),
        )
        for number, (session, key, start_s) in enumerate(visits)
    ]  # fmt: skip
    head = header(simulated=simulated, fingerprint={**FINGERPRINT, "simulated": simulated})
    return luts.read(write(path, head, *rows))


def test_a_visit_lasts_until_the_next_one_of_its_session(tmp_path):
    table = timed(
        tmp_path / "t.jsonl",
        [("s1", "a@1", 0.0), ("s1", "b@1", 2.0), ("s1", "net-1", 5.0), ("s1", "a@1", 15.0), ("s1", "b@1", 17.0)],
    )

    assert spent_s(table, ["a@1"]) == pytest.approx(4.0)
    assert spent_s(table, ["net-1"]) == pytest.approx(10.0)
    assert spent_s(table, ["b@1"]) == pytest.approx(6.0), "the last visit lasts as long as the other one to its key"


def test_time_between_sessions_is_nobodys(tmp_path):
    table = timed(
        tmp_path / "t.jsonl",
        [("s1", "a@1", 0.0), ("s1", "b@1", 1.0), ("s2", "a@1", 500.0), ("s2", "b@1", 501.0), ("s2", "b@1", 504.0)],
    )

    assert spent_s(table, table.entries) == pytest.approx(1 + 3 + 1 + 3 + 3)


def test_an_unknown_start_makes_the_time_unknown_and_not_zero(tmp_path):
    table = timed(tmp_path / "t.jsonl", [("s1", "a@1", 0.0), ("s1", "b@1", None), ("s1", "net-1", 3.0)])

    assert spent_s(table, ["a@1"]) is None
    assert board_time(table, [table]).network_s is None


def test_networks_share_their_time_and_sentinels_are_counted_apart(tmp_path):
    table = timed(
        tmp_path / "t.jsonl",
        [("s1", "a@1", 0.0), ("s1", "net-1", 2.0), ("s1", "a@1", 12.0), ("s1", "net-1", 14.0), ("s1", "b@1", 24.0)],
    )

    time = board_time(None, [table])

    assert time.table_s is None
    assert time.network_s == pytest.approx(20.0)
    assert time.sentinels_s == pytest.approx(2.0 + 2.0 + 6.0), "the last of its session lasts as long as a median visit"


def test_a_simulated_board_is_occupied_for_as_long_as_its_samples_say(tmp_path):
    table = timed(tmp_path / "t.jsonl", [("s1", "a@1", None), ("s1", "b@1", None)], simulated=True)

    assert spent_s(table, ["a@1"]) == pytest.approx((4 * (2.0 + 3.0) + 1.0) / 1000), "4 repeats, and the warm-up"
