"""Rounds: planned, extra ones for unstable keys, and those with energy; resumed without losing or doubling any."""

from profiler.journal import PastVisit
from profiler.manifest import EnergyRounds, Manifest, Measurement, MeasurementProtocol
from profiler.plan import Plan, PlannedVisit, spread


def manifest(
    keys="abcdefgh", rounds=6, *, extra_rounds=0, spread_limit=0.03, energy_rounds=0, sentinels="a", purpose="profile"
):
    return Manifest(
        job="0" * 16, purpose=purpose, space="tiny", space_sha256="a" * 64, classes=10,
        backend="onnxruntime", precision="fp32", batch=1, threads=1, streams=1, cuda_graph=False, build_timeout_s=9.0,
        protocol=MeasurementProtocol(1, 0, rounds, 2, 1.0, 1.0, 9.0, spread_limit, extra_rounds, 10, 0.0, 0.0),
        energy=EnergyRounds(energy_rounds, 5.0) if energy_rounds else None,
        board_setup=None,
        sentinels=list(sentinels),
        measurements=[Measurement(key, "b" * 64, "operator", {}) for key in keys],
        evaluations=[],
        layer_profiles=[],
    )  # fmt: skip


def line(visit, ms=1.0, has_energy=False):
    return PastVisit(visit.key, visit.round, [ms, ms], failed=False, has_energy=has_energy)


def carry_out(plan, ms=lambda visit: 1.0, stop_after=10**6):
    """The journal's lines of a plan; `ms` gives the latency of each visit."""
    lines = []
    for visit in plan.visits({}):
        lines.append(line(visit, ms(visit), visit.with_energy))
        plan.note(lines[-1])
        if len(lines) == stop_after:
            break
    return lines


def pairs(lines):
    return sorted((entry.key, entry.round) for entry in lines)


def unstable(visit):
    """`c` varies by a third from round to round, all others are steady."""
    return 1.0 + (visit.key == "c") * 0.33 * (visit.round % 2)


def test_every_key_is_visited_once_a_round():
    plan = Plan(manifest(), [])

    assert pairs(carry_out(plan)) == sorted((key, round_) for key in "abcdefgh" for round_ in range(6))
    assert (plan.done, plan.total) == (48, 48)


def test_an_unstable_key_is_visited_again_together_with_the_sentinels():
    plan = Plan(manifest(extra_rounds=2), [])

    extra = [entry for entry in carry_out(plan, unstable) if entry.round >= 6]

    assert pairs(extra) == [("a", 6), ("a", 7), ("c", 6), ("c", 7)]
    assert (plan.done, plan.total) == (52, 52)


def test_extra_rounds_end_when_the_spread_is_within_its_limit():
    plan = Plan(manifest(rounds=8, extra_rounds=9), [])

    lines = carry_out(plan, lambda visit: unstable(visit) if visit.round < 4 else 1.0)

    assert max(entry.round for entry in lines) < 8 + 9 - 1


def test_a_finished_plan_with_extra_rounds_has_nothing_left():
    lines = carry_out(Plan(manifest(extra_rounds=2), []), unstable)

    plan = Plan(manifest(extra_rounds=2), lines)

    assert list(plan.visits({})) == []
    assert plan.done == plan.total


def test_a_plan_that_was_stopped_anywhere_resumes_to_the_same_visits():
    job = manifest(extra_rounds=2, energy_rounds=2)
    whole = pairs(carry_out(Plan(job, []), unstable))
    for stop in (1, 47, 48, 49, 51, 53, 60):
        lines = carry_out(Plan(job, []), unstable, stop_after=stop)
        lines += carry_out(Plan(job, lines), unstable)

        assert pairs(lines) == whole, stop


def test_an_unstable_host_gets_no_extra_visits():
    plan = Plan(manifest(extra_rounds=2), [])

    lines = carry_out(plan, lambda visit: 1.0 + 0.33 * (visit.round % 2))

    assert len(lines) == 48
    assert plan.unstable_host.startswith("unstable host: 8 of 8 keys vary by more than 3 % between rounds")


def test_energy_has_rounds_of_its_own_and_only_for_missing_visits():
    lines = carry_out(Plan(manifest("ab", rounds=1, energy_rounds=1), []))
    assert [entry.has_energy for entry in lines] == [False, False, True, True]

    more = list(Plan(manifest("ab", rounds=1, energy_rounds=2), lines).visits({}))

    assert sorted(more) == [PlannedVisit("a", 2, with_energy=True), PlannedVisit("b", 2, with_energy=True)]


def test_a_verification_measures_no_energy_of_its_sentinels():
    plan = Plan(manifest("abn", rounds=1, energy_rounds=2, sentinels="ab", purpose="verify"), [])

    lines = carry_out(plan)

    assert [(entry.key, entry.round) for entry in lines if entry.has_energy] == [("n", 1), ("n", 2)]
    assert (plan.done, plan.total) == (5, 5)


def test_an_energy_that_could_not_be_measured_is_still_missing():
    lines = carry_out(Plan(manifest("a", rounds=1), []))
    lines.append(line(PlannedVisit("a", 1, with_energy=True), has_energy=False))

    assert len(list(Plan(manifest("a", rounds=1, energy_rounds=1), lines).visits({}))) == 1


def test_a_session_of_new_keys_alone_visits_the_sentinels_again_to_be_comparable():
    before = carry_out(Plan(manifest("abcdef", rounds=2, sentinels="ab"), []))

    plan = Plan(manifest("abxy", rounds=2, sentinels="ab"), before)

    assert (plan.total - plan.done) == 8
    assert pairs(carry_out(plan)) == sorted((key, round_) for key in "abxy" for round_ in range(2))
    assert plan.done == plan.total


def test_a_session_that_resumes_an_earlier_one_needs_no_links():
    before = carry_out(Plan(manifest("abcdefgh", rounds=3, sentinels="ab"), []), stop_after=20)

    rest = carry_out(Plan(manifest("abcdefgh", rounds=3, sentinels="ab"), before))

    assert len(pairs(before + rest)) == len(set(pairs(before + rest))) == 24


def test_few_visits_have_no_spread():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0
    assert spread([1.0, 1.0, 1.0, 1.0, 1.0, 1.1]) < spread([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])


def test_a_key_with_rounds_of_its_own_is_visited_in_those_alone():
    job = manifest(energy_rounds=2)
    rows = [row._replace(rounds=2, energy_rounds=1) if row.key in "ab" else row for row in job.measurements]
    plan = Plan(job._replace(measurements=rows), [])

    found = pairs(carry_out(plan))

    planned = [(key, round_) for key in "abcdefgh" for round_ in range(2 if key in "ab" else 6)]
    energy = [(key, 6 + number) for key in "abcdefgh" for number in range(1 if key in "ab" else 2)]
    assert found == sorted(planned + energy)
    assert plan.done == plan.total == len(planned) + len(energy)


def test_sentinels_with_rounds_left_link_a_session_of_new_keys_without_further_visits():
    first = manifest(keys="abcdef", sentinels="abcd", rounds=6)
    rows = [row._replace(rounds=2) if row.key in "abcd" else row for row in first.measurements]
    past = carry_out(Plan(first._replace(measurements=rows), []))
    second = manifest(keys="abcdgh", sentinels="abcd", rounds=6)
    rows = [row._replace(rounds=3) if row.key in "abcd" else row for row in second.measurements]

    found = pairs(carry_out(Plan(second._replace(measurements=rows), past)))

    assert found == sorted([(key, 2) for key in "abcd"] + [(key, round_) for key in "gh" for round_ in range(6)])
