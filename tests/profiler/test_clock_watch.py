"""A sample is taken when the clock is steady; a visit during which it was not, or was low, is marked."""

import pytest

from profiler.backends import Engine
from profiler.clock_watch import HOPELESS, ClockOfVisit, ClockWatch
from profiler.clocks import ClockDomain, engine_clock
from profiler.measure import measure


class Board(Engine):
    """A clock that follows a script of (from second, MHz); seconds pass when the engine runs or `now_s` is set."""

    name = "GPU"
    locked = False
    most = 1000.0

    def __init__(self, *script):
        self.script, self.now_s, self.busy_s = script, 0.0, 0.0

    def __call__(self):
        return self.now_s

    def run(self, repeats):
        self.now_s += repeats / 1e3

    def current_mhz(self):
        return [mhz for start_s, mhz in self.script if self.now_s >= start_s][-1]

    def most_mhz(self):
        return self.most

    def is_locked(self):
        return self.locked


def visit(board, watch, warmup_ms=5.0):
    """(milliseconds of warm-up, what is known about the clock) of one visit with one sample of 10 ms."""
    begin_s = board.now_s
    watch.begin()
    measure(board, warmup_ms, 10.0, 1, 10, clock=board, settled=watch.settled, settle_ms=2000.0)
    warmup_s = board.now_s - 0.010 - begin_s
    return round(warmup_s * 1e3), watch.finish()


def test_the_warm_up_lasts_until_the_clock_has_been_steady_for_200_ms():
    board = Board((0.0, 300), (0.05, 600), (0.12, 1000))

    warmup_ms, clock = visit(board, ClockWatch(board, board))

    assert 320 <= warmup_ms <= 340
    assert clock == ClockOfVisit("GPU", True, 1000, 1000, 1000)
    assert clock.warnings() == []


def test_the_next_visit_does_not_wait_again_unless_a_pause_lies_between():
    board = Board((0.0, 1000))
    watch = ClockWatch(board, board)
    visit(board, watch)

    board.now_s += 0.02
    soon, _ = visit(board, watch)
    board.now_s += 0.5
    late, _ = visit(board, watch)

    assert soon == 10
    assert 200 <= late <= 220


def test_a_locked_clock_is_not_waited_for():
    board = Board((0.0, 1000))
    board.locked = True

    assert visit(board, ClockWatch(board, board)) == (10, ClockOfVisit("GPU", True, 1000, 1000, 1000))


def test_a_clock_that_never_settles_is_waited_for_two_seconds_and_after_three_such_visits_briefly():
    board = Board(*[(number * 0.1, 500 + 200 * (number % 2)) for number in range(1000)])
    watch = ClockWatch(board, board)

    visits = [visit(board, watch) for _ in range(HOPELESS + 2)]

    assert all(2000 <= warmup_ms <= 2020 for warmup_ms, _ in visits[:HOPELESS])
    assert all(200 <= warmup_ms <= 220 for warmup_ms, _ in visits[HOPELESS:])
    for _, clock in visits:
        assert clock.warnings()[0].startswith("GPU clock was ramping: ")


def test_a_clock_that_settles_in_the_end_is_found_steady_although_every_visit_follows_a_pause():
    board = Board(*[(number * 0.1, 500 + 200 * (number % 2)) for number in range(60)], (6.0, 1000))
    watch = ClockWatch(board, board)
    for _ in range(HOPELESS):
        visit(board, watch)
    board.now_s = 7.0

    found = []
    for _ in range(3):
        board.now_s += 0.2  # loading an engine
        found.append(visit(board, watch))

    assert all(clock.is_steady and warmup_ms <= 220 for warmup_ms, clock in found)


def test_a_clock_that_moves_while_samples_are_taken_marks_the_visit():
    steady = Board((0.0, 1000))
    warmup_ms, _ = visit(steady, ClockWatch(steady, steady))
    board = Board((0.0, 1000), ((warmup_ms + 5) / 1e3, 800))

    _, clock = visit(board, ClockWatch(board, board))

    assert clock.warnings() == [
        "GPU clock was ramping: 1000 MHz before the samples, 800 MHz after them; lock the clocks",
        "GPU clock below the mode's maximum: 800 of 1000 MHz; lock the clocks or cool the board",
    ]


def test_a_steady_clock_below_the_modes_maximum_marks_the_visit():
    board = Board((0.0, 510))

    _, clock = visit(board, ClockWatch(board, board))

    assert clock.warnings() == [
        "GPU clock below the mode's maximum: 510 of 1000 MHz; lock the clocks or cool the board"
    ]


def test_a_clock_that_cannot_be_read_is_not_waited_for():
    board = Board((0.0, 1000))

    assert visit(board, ClockWatch(None, board)) == (10, None)


@pytest.mark.parametrize(("on_gpu", "name", "now", "most"), [(True, "GPU", 510, 1020), (False, "CPU", 1500, 2000)])
def test_the_clock_that_counts_is_that_of_the_engines_processor(tmp_path, on_gpu, name, now, most):
    files = {
        "class/devfreq/17000000.gpu/cur_freq": 510e6, "class/devfreq/17000000.gpu/max_freq": 1020e6,
        "class/devfreq/17000000.gpu/min_freq": 306e6,
        "devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 800e3,
        "devices/system/cpu/cpufreq/policy0/scaling_max_freq": 2000e3,
        "devices/system/cpu/cpufreq/policy4/scaling_cur_freq": 1500e3,
        "devices/system/cpu/cpufreq/policy4/scaling_max_freq": 1800e3,
    }  # fmt: skip
    for path, value in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{value:.0f}\n")

    domain = engine_clock(str(tmp_path), on_gpu)

    assert isinstance(domain, ClockDomain)
    assert (domain.name, domain.current_mhz(), domain.most_mhz()) == (name, now, most)


def test_without_clock_files_there_is_no_clock_to_watch(tmp_path):
    assert engine_clock(str(tmp_path), True) is None
    assert engine_clock(str(tmp_path), False) is None
