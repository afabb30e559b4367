"""Rounds: planned, extra ones for what varies, and those with energy; resumed without losing or doubling any."""

from profiler.plan import Plan, Visit, spread


def manifest(keys="abcdefgh", rounds=6, *, extra_rounds=0, spread_limit=0.03, energy_rounds=0, sentinels="a"):
    return {
        "protocol": {"seed": 0, "rounds": rounds, "extra_rounds": extra_rounds, "spread_limit": spread_limit},
        "sentinels": list(sentinels),
        "measurements": [{"key": key} for key in keys],
        "energy": {"rounds": energy_rounds, "steady_s": 5.0} if energy_rounds else None,
    }


def line(visit, ms=1.0, energy=None):
    return {"key": visit.key, "round": visit.round, "samples_ms": [ms, ms], "energy": energy, "error": None}


def carry_out(plan, ms=lambda visit: 1.0, stop_after=10**6):
    """The journal's lines of a plan; `ms` says what each visit shows."""
    lines = []
    for visit in plan.visits({}):
        lines.append(line(visit, ms(visit), {"gross_mj": 2.0} if visit.with_energy else None))
        plan.note(lines[-1])
        if len(lines) == stop_after:
            break
    return lines


def pairs(lines):
    return sorted((entry["key"], entry["round"]) for entry in lines)


def shaky(visit):
    """`c` varies by a third from round to round, all others are steady."""
    return 1.0 + (visit.key == "c") * 0.33 * (visit.round % 2)


def test_every_key_is_visited_once_a_round():
    plan = Plan(manifest(), [])

    assert pairs(carry_out(plan)) == sorted((key, round_) for key in "abcdefgh" for round_ in range(6))
    assert (plan.done, plan.total) == (48, 48)


def test_what_varies_is_visited_again_beside_the_sentinels():
    plan = Plan(manifest(extra_rounds=2), [])

    extra = [entry for entry in carry_out(plan, shaky) if entry["round"] >= 6]

    assert pairs(extra) == [("a", 6), ("a", 7), ("c", 6), ("c", 7)]
    assert (plan.done, plan.total) == (52, 52)


def test_extra_rounds_end_when_the_spread_is_back_in_its_limit():
    plan = Plan(manifest(rounds=8, extra_rounds=9), [])

    lines = carry_out(plan, lambda visit: shaky(visit) if visit.round < 4 else 1.0)

    assert max(entry["round"] for entry in lines) < 8 + 9 - 1


def test_a_finished_plan_with_extra_rounds_has_nothing_left():
    lines = carry_out(Plan(manifest(extra_rounds=2), []), shaky)

    plan = Plan(manifest(extra_rounds=2), lines)

    assert list(plan.visits({})) == []
    assert plan.done == plan.total


def test_stopped_anywhere_it_goes_on_to_the_same_visits():
    job = manifest(extra_rounds=2, energy_rounds=2)
    whole = pairs(carry_out(Plan(job, []), shaky))
    for stop in (1, 47, 48, 49, 51, 53, 60):
        lines = carry_out(Plan(job, []), shaky, stop_after=stop)
        lines += carry_out(Plan(job, lines), shaky)

        assert pairs(lines) == whole, stop


def test_a_restless_machine_is_not_measured_again():
    plan = Plan(manifest(extra_rounds=2), [])

    lines = carry_out(plan, lambda visit: 1.0 + 0.33 * (visit.round % 2))

    assert len(lines) == 48
    assert plan.restless.startswith("8 of 8 keys vary by more than 3 % between rounds")


def test_energy_comes_in_rounds_of_its_own_and_only_as_often_as_it_is_missing():
    lines = carry_out(Plan(manifest("ab", rounds=1, energy_rounds=1), []))
    assert [entry["energy"] is not None for entry in lines] == [False, False, True, True]

    more = list(Plan(manifest("ab", rounds=1, energy_rounds=2), lines).visits({}))

    assert sorted(more) == [Visit("a", 2, with_energy=True), Visit("b", 2, with_energy=True)]


def test_an_energy_that_could_not_be_measured_is_still_missing():
    lines = carry_out(Plan(manifest("a", rounds=1), []))
    lines.append(line(Visit("a", 1, with_energy=True), energy={"gross_mj": None}))

    assert len(list(Plan(manifest("a", rounds=1, energy_rounds=1), lines).visits({}))) == 1


def test_a_session_of_new_keys_alone_visits_the_sentinels_again_to_be_comparable():
    before = carry_out(Plan(manifest("abcdef", rounds=2, sentinels="ab"), []))

    plan = Plan(manifest("abxy", rounds=2, sentinels="ab"), before)

    assert (plan.total - plan.done) == 8
    assert pairs(carry_out(plan)) == sorted((key, round_) for key in "abxy" for round_ in range(2))
    assert plan.done == plan.total


def test_a_session_that_goes_on_with_what_was_begun_needs_no_links():
    before = carry_out(Plan(manifest("abcdefgh", rounds=3, sentinels="ab"), []), stop_after=20)

    rest = carry_out(Plan(manifest("abcdefgh", rounds=3, sentinels="ab"), before))

    assert len(pairs(before + rest)) == len(set(pairs(before + rest))) == 24


def test_of_few_visits_no_spread_is_told():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0
    assert spread([1.0, 1.0, 1.0, 1.0, 1.0, 1.1]) < spread([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
