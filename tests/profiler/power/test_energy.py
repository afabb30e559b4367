"""Proof of the energy estimator: on made-up traces with a known truth, and on logs of a real Jetson Nano."""

import csv
import math
import random
import statistics

import pytest

from profiler.power.energy import Energy, Window, effective_samples, estimate, half_width, level, measure
from profiler.power.tegrastats import parse_log
from tests.profiler.power.traces import Load, seen, sensor

CASES = 300


def flat(busy_mw, idle_mw, window_s=6.0):
    """Levels without filter or noise, at 10 Hz: idle, busy, idle."""
    steps = round(3 * window_s * 10)
    return [(i / 10, busy_mw if window_s <= i / 10 < 2 * window_s else idle_mw) for i in range(steps)]


def windows(window_s=6.0):
    return Window(window_s, 2 * window_s), Window(0, window_s), Window(2 * window_s, 3 * window_s)


def estimated(trace, runs=1000, window_s=6.0, **facts):
    busy, before, after = windows(window_s)
    return estimate(trace, busy, runs, before, after, sensor(**facts))


def test_energy_is_power_times_the_time_of_a_batch():
    energy = estimated(flat(9000, 4000), runs=1200)  # 5 ms each

    assert energy.batch_ms == 5.0
    assert energy.gross_mj == pytest.approx(9000 * 0.005)
    assert energy.net_mj == pytest.approx(5000 * 0.005)
    assert energy.idle_drift_mw == 0.0


def test_a_step_of_the_sensor_stays_a_bound_with_any_number_of_samples():
    short = estimated(flat(9000, 4000, 6.0), window_s=6.0, runs=600)
    long = estimated(flat(9000, 4000, 60.0), window_s=60.0, runs=6000)

    for energy in (short, long):
        low, high = energy.gross_interval_mj
        assert (high - low) / 2 / 0.01 == pytest.approx(0.95 * 20, rel=0.02)  # 10 ms a batch; half a step of 40 mW


def test_steps_of_six_rails_add_up_as_independent_errors():
    rails = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
    energy = estimated(flat(20000, 6000), rails=rails, step_mw=150.0, runs=600)

    low, high = energy.gross_interval_mj
    exact = 1.96 * math.sqrt(6 * 150**2 / 12)  # six uniform errors are nearly normal
    assert (high - low) / 2 / 0.01 == pytest.approx(exact, rel=0.03)


def cases(count=CASES, noises=(0, 30, 80, 200)):
    """(trace, window_s, runs, true gross and net mJ) under tau 0.44 s, 40 mW steps, drift, a fluctuating load."""
    for seed in range(count):
        draw = random.Random(seed)
        load = Load(
            draw,
            idle_mw=draw.uniform(3000, 6000),
            busy_mw=draw.uniform(500, 10000),
            window_s=draw.choice([5.5, 7.2, 10.0]),
            drift_mw=draw.uniform(-60, 60),
            curve=math.exp(draw.uniform(-1.6, 1.6)),
            noise_mw=draw.choice(noises),
            noise_s=draw.choice([0.02, 0.1, 0.3]),
        )
        runs = draw.randint(50, 5000)
        batch_s = load.window_s / runs
        gross, net = (value * batch_s for value in load.truth_mw(2.2))
        yield seen(load.mw, load.end_s, phase=draw.random()), load.window_s, runs, gross, net


@pytest.fixture(scope="module")
def drawn():
    return list(cases())


def test_intervals_cover_the_truth_at_their_confidence(drawn):
    covered = {"gross": 0, "net": 0}
    for trace, window_s, runs, gross, net in drawn:
        energy = estimated(trace, runs, window_s)
        covered["gross"] += energy.gross_interval_mj[0] <= gross <= energy.gross_interval_mj[1]
        covered["net"] += energy.net_interval_mj[0] <= net <= energy.net_interval_mj[1]

    shares = {name: count / CASES for name, count in covered.items()}
    print(shares)
    assert all(0.90 <= share <= 0.99 for share in shares.values()), shares


def test_the_textbook_interval_does_not_cover_the_truth(drawn):
    """Why all this: sd / sqrt(n), every sample counted as independent, steps forgotten."""
    covered = 0
    for trace, window_s, runs, gross, _ in drawn:
        mw = [value for t_s, value in trace if window_s + 2.2 <= t_s <= 2 * window_s]
        half = 1.96 * statistics.stdev(mw) / math.sqrt(len(mw))
        covered += abs(statistics.mean(mw) - gross * runs / window_s) <= half

    assert covered / CASES < 0.6


def test_without_settling_the_filter_pulls_the_energy_down():
    load = Load(random.Random(0), 4000, 9000, 6.0)
    trace = seen(load.mw, load.end_s)
    busy, before, after = windows()

    settled = estimate(trace, busy, 600, before, after, sensor())
    hasty = level(trace, busy, 0.44, settle_s=0.0)

    assert settled.power_mw == pytest.approx(13000, abs=30)
    assert hasty.mean_mw == pytest.approx(13000 - 9000 * 0.44 / 6.0, abs=100)  # 660 mW too low
    assert hasty.lag_mw == pytest.approx(660, rel=0.15)  # and the bound says so


def test_drift_between_the_idles_is_reported_widens_the_interval_and_gives_a_warning():
    trace = [(t_s, mw + 60 * t_s) for t_s, mw in flat(5000, 4000)]

    energy = estimated(trace, runs=600)

    assert energy.idle_drift_mw == pytest.approx(60 * 12)
    assert energy.net_interval_mj[1] - energy.net_interval_mj[0] > 2 * 0.95 * 0.5 * 720 * 0.01
    assert any("idle power went from" in warning for warning in energy.warnings)


def test_a_load_that_keeps_changing_gives_a_warning():
    trace = [(t_s, mw + (100 * (t_s - 6) if mw == 9000 else 0)) for t_s, mw in flat(9000, 4000)]

    busy, _, after = windows()
    for energy in (estimated(trace), estimate(trace, busy, 600, None, after, sensor())):
        assert energy.warnings[0].startswith("not steady: the power changed by 3")


def test_autocorrelation_is_known_from_the_filter():
    """For a window long against tau, T / (2 tau) samples are effective."""
    assert effective_samples(1000, math.exp(-0.1 / 0.44)) == pytest.approx(100 / 0.88, rel=0.02)
    assert effective_samples(1000, 0.0) == 1000


def test_half_width_agrees_with_the_cases_that_have_a_formula():
    assert half_width(0.0, 5, [20]) == pytest.approx(19, rel=0.01)
    assert half_width(0.0, 5, [10, 10]) == pytest.approx(20 * (1 - math.sqrt(0.05)), rel=0.01)
    assert half_width(1.0, 1e6, []) == pytest.approx(1.96, rel=0.02)
    assert half_width(1.0, 2, []) == pytest.approx(4.303, rel=0.03)  # Student's t
    assert half_width(0.0, 5, []) == 0.0


def test_counters_are_weighed_by_their_intervals():
    """1 W for three seconds and 2 W for one: 1.25 W, though half of the samples read 2 W."""
    trace = [(1.0, 1000), (2.0, 1000), (3.0, 1000), (3.25, 2000), (3.5, 2000), (3.75, 2000), (4.0, 2000)]

    counted = level([(0.0, 1000), *trace], Window(0.5, 4.5), 0.0, settle_s=0.0, cumulative=True)

    assert counted.mean_mw == pytest.approx(1250)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda trace: trace[:70], "while busy: only 0 samples"),
        (lambda trace: trace[:95], "while busy: only 1.3 s of steady samples, 3.0 s are needed"),
        (lambda trace: [(t, None if 90 < 10 * t < 93 else mw) for t, mw in trace], "while busy: 2 of 38 samples could"),
        (lambda trace: [(t, mw) for t, mw in trace if not 9.0 < t < 11.0], "while busy: no samples for 2.0 s"),
        (lambda trace: trace[:125], "no net energy: while idle: only 0 samples"),
    ],
)
def test_an_unknown_energy_is_none_with_a_reason(change, reason):
    energy = estimated(change(flat(9000, 4000)))

    assert energy.reason.startswith(reason), energy.reason
    assert energy.net_mj is None and energy.net_interval_mj is None
    assert (energy.gross_mj is None) == energy.reason.startswith("while busy")


def test_without_idle_only_the_gross_energy_is_known():
    energy = estimate(flat(9000, 4000), Window(6, 12), 600, None, Window(12, 18), sensor())

    assert energy.gross_mj == pytest.approx(90) and energy.net_mj is None
    assert energy.reason == "no net energy: idle was not measured on both sides"


def test_a_missing_total_or_step_is_a_reason():
    busy, before, after = windows()
    nothing = estimate(flat(9000, 4000), busy, 600, before, after, sensor(rails=(), total_reason="why not"))
    coarse = estimate(flat(9000, 4000), busy, 600, before, after, sensor(step_mw=None))

    assert nothing.gross_mj is None
    assert coarse.gross_mj == pytest.approx(90) and coarse.gross_interval_mj is None
    assert coarse.reason == "no interval: the resolution of VDD_IN is not known"


def test_the_record_is_plain_json_with_null_for_unknown():
    record = Energy(reason="no sensor").to_json()

    assert record["gross_mj"] is None and record["reason"] == "no sensor"
    assert estimated(flat(9000, 4000)).to_json()["gross_interval_mj"][0] < 54


def test_measuring_idles_works_and_idles_again():
    """The protocol with a clock of its own: nothing waits."""
    now = [100.0]

    class Sampler:
        def trace(self):
            return self

        def total(self, labels):
            assert labels == ("VDD_IN",)
            return [(100 + i / 10, 9000 if 107.2 <= 100 + i / 10 < 114.4 else 4000) for i in range(220)]

    def sleep(seconds):
        now[0] += seconds

    def run_for(seconds):
        start_s = now[0]
        now[0] += seconds
        return 720, start_s, now[0]

    energy, idle = measure(Sampler(), run_for, sensor(), sleep=sleep, clock=lambda: now[0])

    assert energy.reason is None
    assert energy.net_mj == pytest.approx(5000 * 0.01)
    assert idle == pytest.approx((114.4, 121.6))


# ------------------------------------------------------------------ recorded logs of a Jetson Nano


@pytest.fixture(scope="module")
def nano_logs(shared_data):
    """[(published row, [mW of POM_5V_IN at 1 Hz])] of the 60 recorded runs: load only, no idle."""
    folder = shared_data / "nano_convnets"
    with open(folder / "measurements.csv") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    logs = []
    for path in sorted((folder / "tegrastats").iterdir()):
        name = path.name.removeprefix("stats_").removesuffix("_mode0_60.txt")
        records, faults = parse_log(path.read_text().splitlines())
        assert faults == []
        logs.append((rows[name], [record.rails_mw["POM_5V_IN"] for record in records]))
    assert len(logs) == 60
    return logs


NANO = sensor(step_mw=40.0, tau_s=0.054, rails=("POM_5V_IN",))


def nano_energy(milliwatts, runs, seconds, settle_s=2.2):
    trace = [(float(t_s), float(mw)) for t_s, mw in enumerate(milliwatts)]
    return estimate(trace, Window(0.0, seconds), runs, None, None, NANO, settle_s)


def test_recorded_runs_give_the_published_energy(nano_logs):
    """Their mean takes in the first seconds and ours does not, so equal within 1 %, and within our interval."""
    apart, inside = [], 0
    for row, milliwatts in nano_logs:
        runs = int(row["n_inferences_60s"])
        energy = nano_energy(milliwatts, runs, runs * float(row["latency_60s_ms"]) / 1000)
        published_mj = float(row["energy_in_mj"])
        apart.append(energy.gross_mj / published_mj - 1)
        inside += energy.gross_interval_mj[0] <= published_mj <= energy.gross_interval_mj[1]
        assert energy.net_mj is None and "idle was not measured" in energy.reason  # the source has no idle log

    print(f"median {100 * statistics.median(apart):.3f} %, largest {100 * max(map(abs, apart)):.2f} %, inside {inside}")
    assert abs(statistics.median(apart)) < 0.002 and max(map(abs, apart)) < 0.01
    assert inside >= 57


def test_two_halves_of_a_recorded_run_agree_within_their_intervals(nano_logs):
    """Real fluctuation, real rounding: a check of the interval that needs no truth."""
    agree = 0
    for _, milliwatts in nano_logs:
        middle = len(milliwatts) // 2
        halves = [
            nano_energy(part, 100, len(part), settle_s=0.0) for part in (milliwatts[3:middle], milliwatts[middle:])
        ]
        spans = [half.gross_interval_mj[1] - half.gross_mj for half in halves]
        spans = [span / half.batch_ms for span, half in zip(spans, halves, strict=True)]
        powers = [half.power_mw / 1000 for half in halves]
        agree += abs(powers[0] - powers[1]) <= math.hypot(*spans)

    print(f"{agree} of 60 agree")
    assert 54 <= agree <= 60


RECORDED = [
    ("orinagx_64gb/long_0p5s.log", 0.5, {"VDD_GPU_SOC": 400, "VDD_CPU_CV": 400, "VIN_SYS_5V0": 100}),
    ("tx2/sample_log.txt", 1.0, {"VDD_IN": 38}),
    ("orin_nano/tegrastats_multi_workload_20260517_221116.log", 1.0, {"VDD_IN": 40}),
    ("orin_nano/tegrastats_multi_workload_20260518_002910.log", 1.0, {"VDD_IN": 40}),
]


def test_neighbouring_windows_of_recorded_boards_agree_unless_they_are_unsteady(shared_data):
    """Neighbouring windows of 10 s at changing work: either a warning, or two levels within their intervals."""
    agree = called_steady = unsteady = 0
    for path, period_s, steps in RECORDED:
        records, _ = parse_log((shared_data / "tegrastats" / path).read_text().splitlines())
        trace = [(i * period_s, float(sum(r.rails_mw[rail] for rail in steps))) for i, r in enumerate(records)]
        facts = sensor(rails=tuple(steps), resolution_mw=steps)
        for start_s in range(0, int(trace[-1][0]) - 20, 20):
            windows_s = Window(start_s, start_s + 10), Window(start_s + 10, start_s + 20)
            pair = [estimate(trace, window, 100, None, None, facts, settle_s=0.0) for window in windows_s]
            if pair[0].warnings or pair[1].warnings:
                unsteady += 1
                continue
            called_steady += 1
            spans = [energy.gross_interval_mj[1] - energy.gross_mj for energy in pair]
            agree += abs(pair[0].gross_mj - pair[1].gross_mj) <= math.hypot(*spans)

    print(f"{agree} of {called_steady} pairs agree, {unsteady} called unsteady")
    assert called_steady > 90 and agree / called_steady >= 0.95


def test_a_recorded_orin_nx_shows_plateaus_and_steps_not_noise(shared_data):
    """What a heavily averaging sensor looks like: 55 readings in one second, one step of 41 mW, nothing in between.

    Hence a step is a bound and no noise that averages out. (The decay that 0.44 s was fitted to is in a log that is
    not among our data.)
    """
    records, _ = parse_log((shared_data / "tegrastats/orinnx_16gb/all.tegrastats").read_text().splitlines())

    assert {record.rails_mw["VDD_IN"] for record in records} == {5469, 5428}
