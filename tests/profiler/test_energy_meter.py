"""Energy on virtual boards, with a known truth: the real sensors, sampler's trace and estimator between."""

import json

import pytest

from devices.virtual import make_board
from lightnas_edge import graph
from lightnas_edge.space import load_space
from profiler.backends import Backend, Engine
from profiler.backends.simulated import Simulated
from profiler.energy import EnergyMeter
from profiler.power import SETTLE_S, SamplerError, Trace
from profiler.simulation import IDLE
from profiler.system import System
from tests.profiler.power.traces import sensor

SPACE = load_space("lightnas")


@pytest.fixture(params=["jetson-nano", "jetson-tx2", "jetson-agx-xavier", "jetson-orin-nano"])
def board(request, tmp_path, pytestconfig):
    """(system, description) of a virtual board."""
    make_board(tmp_path / "board", request.param)
    catalogue = pytestconfig.rootpath / "devices" / "catalog" / f"{request.param}.json"
    return System(str(tmp_path / "board")), json.loads(catalogue.read_text())


def model(shaped):
    return graph.model_bytes(graph.operator_model(shaped))


class Watched(Engine):
    """An engine that notes the truth at each run: (end of the run, runs, energy spent by the board until then)."""

    def __init__(self, engine, machine):
        self._engine, self._machine, self.truth = engine, machine, []

    def run_queued(self, repeats):
        self._engine.run_queued(repeats)
        self.truth.append((self._machine.now_s, repeats, self._machine.spent_mj))

    def between(self, start_s, end_s):
        """(batches, millijoules)"""
        inside = [entry for entry in self.truth if start_s <= entry[0] <= end_s]
        return sum(runs for _, runs, _ in inside[1:]), inside[-1][2] - inside[0][2]


def test_the_true_energy_lies_in_the_interval(board, tmp_path):
    """Of 95 %: of the 16 intervals of a board two may miss. A rail is rounded alike for many operators, so misses come together."""
    system, description = board
    backend = Simulated("fp16", 1, 1, system)
    machine = backend._machine
    meter = EnergyMeter(backend, system, description, str(tmp_path))
    total = description["power"]["total"]
    outside = []
    for shaped in SPACE.shaped_operators()[5::11]:
        engine = Watched(backend.load(model(shaped)), machine)

        found = meter.measure(engine, 5.0, lambda: None)

        runs, spent_mj = engine.between(meter.busy.start_s + SETTLE_S, meter.busy.end_s)
        gross_mj = spent_mj / runs
        idle_mw = sum(machine.power_mw(IDLE)[label] for label in total)
        energy = found.energy
        net_mj = gross_mj - idle_mw * energy.batch_ms / 1e3
        assert energy.reason is None and found.rails == total
        assert energy.gross_mj == pytest.approx(gross_mj, rel=0.05)
        for kind, true_mj, (low, high) in (
            ("gross", gross_mj, energy.gross_interval_mj),
            ("net", net_mj, energy.net_interval_mj),
        ):
            if not low <= true_mj <= high:
                outside.append((shaped.key, kind, low, true_mj, high))
    assert len(outside) <= 2, outside


def test_the_idle_window_of_one_visit_serves_the_next(board, tmp_path):
    system, description = board
    backend = Simulated("fp16", 1, 1, system)
    meter = EnergyMeter(backend, system, description, str(tmp_path))
    engine = backend.load(model(SPACE.shaped_operators()[3]))

    first = meter.measure(engine, 5.0, lambda: None)
    begun_s = backend.clock()
    second = meter.measure(engine, 5.0, lambda: None)

    assert first.windows["busy"][0] == 0.0
    assert second.windows["idle_before"][0] < begun_s - meter.busy.start_s  # it had begun before
    assert backend.clock() - begun_s < 14.0  # busy, idle: 7.7 and 6.2 s, not another idle window


def test_an_operators_energy_does_not_contain_the_hosts_waiting(board, tmp_path):
    """Ten times the time of synchronisation: a small operator queued is as it was, and one by one it takes more."""
    system, description = board
    shaped = min((each for each in SPACE.shaped_operators() if not each.is_identity), key=lambda each: each.output_size)
    found = {}
    for slow in (False, True):
        backend = Simulated("fp16", 1, 1, system)
        machine = backend._machine
        machine.spec = machine.spec._replace(sync_us=machine.spec.sync_us * (10 if slow else 1))
        engine = backend.load(model(shaped))
        for one_by_one in (False, True):
            meter = EnergyMeter(backend, system, description, str(tmp_path))
            found[slow, one_by_one] = meter.measure(engine, 5.0, lambda: None, one_by_one).energy.gross_mj

    assert found[True, False] == pytest.approx(found[False, False], rel=0.1)
    assert found[True, True] > 1.15 * found[False, True]
    assert found[False, True] > found[False, False]


def test_rails_that_cannot_be_read_leave_the_latency_and_a_reason(tmp_path):
    class Unlucky(Backend):
        def power_sampler(self, path, system, board):
            class Sampler:
                def start(self):
                    raise SamplerError("ina3221 VDD_IN: cannot be read")

            return Sampler()

    meter, taken = EnergyMeter(Unlucky(), System(str(tmp_path)), {}, str(tmp_path)), []

    found = meter.measure(Engine(), 5.0, lambda: taken.append(1))

    assert taken == [1]
    assert (found.energy.gross_mj, found.energy.net_mj, found.rails) == (None, None, None)
    assert found.energy.reason == "ina3221 VDD_IN: cannot be read"


def test_a_sensor_that_reads_zero_power_while_busy_gives_a_reason_instead_of_an_energy(tmp_path):
    class Dead:
        def start(self):
            pass

        def trace(self):
            trace = Trace(sensor(tau_s=0.1))
            for tenth in range(1000):
                trace.append(tenth / 10, {"VDD_IN": 0.0})
            return trace

    class Still(Backend, Engine):
        now_s = 0.0

        def clock(self):
            return self.now_s

        def sleep(self, seconds):
            self.now_s += seconds

        def run_queued(self, repeats):
            self.now_s += 0.01 * repeats

        def power_sampler(self, path, system, board):
            return Dead()

    backend = Still()

    found = EnergyMeter(backend, System(str(tmp_path)), {}, str(tmp_path)).measure(backend, 5.0, lambda: None)

    assert (found.energy.gross_mj, found.energy.reason) == (None, "the total reads 0 mW while busy")


def test_a_sampler_that_was_killed_is_started_again(board, tmp_path):
    """Without it every later visit would idle and work for nothing."""
    system, description = board
    backend = Simulated("fp16", 1, 1, system)
    meter = EnergyMeter(backend, system, description, str(tmp_path))
    engine = backend.load(model(SPACE.shaped_operators()[5]))
    assert meter.measure(engine, 5.0, lambda: None).energy.gross_mj is not None
    first = meter._sampler
    first.running = lambda: False

    again = meter.measure(engine, 5.0, lambda: None)

    assert meter._sampler is not first and again.energy.gross_mj is not None
