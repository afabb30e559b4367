"""Networks and model files under the real agent: single inferences, sustained load, outputs, layers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from devices import Campaign

ABOUT_A_MODEL_FILE = {"purpose": "model", "space": None, "space_sha256": None, "classes": None, "batch": None}
LONG = (1, 2**18)  # an inference lasts far longer than 100 steps of the timer


def by_phase(visits):
    return (
        [visit for visit in visits if visit["phase"] == "sustained"],
        [visit for visit in visits if visit["phase"] == "rounds"],
    )


@pytest.fixture
def write_network(write_job):
    """A job about one network, `a`, that is no operator."""

    def write(**changes):
        models = changes.pop("models", {"a": write_job.scale_model(2, LONG)})
        return write_job(models, **{"subject": "architecture"} | changes)

    return write


def test_a_network_is_timed_inference_by_inference_and_an_operator_by_means(agent, write_job, tools):
    models = {"a": write_job.scale_model(2, LONG)}
    network, operator = (
        write_job(models, name="n", subject="architecture"),
        write_job(models, name="o", min_sample_ms=9.0),
    )

    assert [agent.run(job)[0] for job in (network, operator)] == [0, 0]

    for visit in tools.visits(network):
        assert visit["repeats"] == 1 and visit["architecture"] == {"key": "a", "block": "a"}
        assert 10 <= len(visit["samples_ms"]) <= 100
    for visit in tools.visits(operator):
        assert visit["repeats"] > 1
        assert len(visit["samples_ms"]) == 2


def test_the_job_decides_how_many_inferences_a_visit_takes_at_least(agent, write_network, tools):
    job = write_network(inferences_per_visit=120)

    agent.run(job)

    assert [len(visit["samples_ms"]) for visit in tools.visits(job)] == [120, 120]


def test_visits_of_a_network_are_as_far_apart_as_the_job_says(agent, write_network, tools):
    job = write_network(rounds=4, round_s=0.2)

    agent.run(job)

    started_s = [visit["t_s"] for visit in tools.visits(job)]
    gaps_s = np.diff(started_s)[1:]  # the warm-up of a visit fills the time since the one before
    assert len(gaps_s) == 2 and min(gaps_s) > 0.19


def test_a_model_file_is_timed_evaluated_and_profiled_without_a_space(agent, write_network, tools):
    inputs = np.arange(3 * LONG[1], dtype=np.float32).reshape(3, -1)
    job = write_network(subject="model_file", inputs=inputs, layer_profiles=["a"], **ABOUT_A_MODEL_FILE)

    code, answer, log = agent.run(job)

    header, *visits = tools.lines(job / "journal.jsonl")
    assert (code, answer["state"]) == (0, "done")
    assert [header[field] for field in ("space", "space_sha256", "classes")] == [None] * 3
    assert header["fingerprint"]["batch"] is None
    assert [visit["model_file"] for visit in visits] == [{"key": "a", "block": "a"}] * 2
    assert sorted(os.listdir(job / "outputs")) == ["a.f32", "a.layers.json"]
    np.testing.assert_array_equal(np.fromfile(job / "outputs" / "a.f32", "<f4"), 2 * inputs.ravel())
    profile = json.loads((job / "outputs" / "a.layers.json").read_text())
    assert (profile["kind"], profile["schema"], profile["source"]) == ("layer-profile", 1, "onnxruntime")
    assert [len(layer["times_ms"]) for layer in profile["layers"]] == [profile["runs"]]
    assert f"timed the layers of a in {profile['runs']} runs" in log
    status = json.loads((job / "status.json").read_text())
    assert (status["phase"], status["key"]) == ("layers", "a")


def test_layers_that_cannot_be_timed_leave_no_file_of_an_earlier_session(agent, write_network):
    job = write_network(layer_profiles=["a"])
    agent.run(job)
    next((job / "models").iterdir()).write_bytes(b"damaged")

    code, answer, _ = agent.run(job)

    assert code == 0
    assert "the layers of a could not be timed" in answer["message"] and "is damaged" in answer["message"]
    assert os.listdir(job / "outputs") == []


def test_sustained_load_comes_before_the_rounds_with_visits_of_its_own(agent, write_network, tools):
    job = write_network(sustained_s=2.5)

    code, _, _ = agent.run(job)

    visits = tools.visits(job)
    load, rounds = by_phase(visits)
    assert code == 0 and visits == load + rounds
    assert [visit["round"] for visit in load] == list(range(len(load))) and [visit["round"] for visit in rounds] == [
        0,
        1,
    ]
    assert load[0]["t_s"] == 0.0 and all(visit["before"] and visit["after"] for visit in load)
    assert all(visit["repeats"] == 1 and len(visit["samples_ms"]) >= 10 for visit in load)
    assert len(load) == 3  # each at least a second under load


def test_a_session_with_rounds_left_begins_with_the_load_again_and_one_without_does_not(agent, write_network, tools):
    agent.run(write_network(sustained_s=0.5, rounds=1))

    job = write_network(sustained_s=0.5, rounds=2)
    agent.run(job)
    load, rounds = by_phase(tools.visits(job))
    agent.run(job)

    assert [visit["round"] for visit in load] == [0, 0] and len({visit["session"] for visit in load}) == 2
    assert [(visit["round"], visit["session"]) for visit in rounds] == [(n, load[n]["session"]) for n in (0, 1)]
    assert len(tools.visits(job)) == len(load + rounds)


def test_a_network_that_fails_twice_under_load_has_no_rounds(agent, write_job, tools):
    job = write_job({"a": write_job.endless_model()}, subject="architecture", sustained_s=60.0, timeout_s=1.0)

    code, answer, _ = agent.run(job)

    load, rounds = by_phase(tools.visits(job))
    assert (code, rounds) == (0, []) and "failed: a" in answer["message"]
    assert [visit["error"]["code"] for visit in load] == ["timeout"] * 2


def test_the_status_shows_how_much_of_the_load_is_left(agent, write_network, tools):
    job = write_network(sustained_s=600.0)

    with agent.start(job) as process:
        try:
            status = tools.wait_for(lambda: loaded(job), "the second visit under load")
        finally:
            process.kill()

    assert (status["total"], status["key"]) == (600, "a")
    assert status["done"] + status["eta_s"] == pytest.approx(600, abs=1)


def loaded(job):
    path = job / "status.json"
    status = json.loads(path.read_text()) if path.exists() else {}
    return status if status.get("phase") == "sustained" and status["done"] else None


def test_outputs_and_layers_of_a_model_file_are_fetched(connection, write_network, tmp_path):
    job = write_network(subject="model_file", inputs=np.ones((1, LONG[1])), layer_profiles=["a"], **ABOUT_A_MODEL_FILE)
    running = Campaign(connection, job)
    running.start()
    running.follow(tmp_path / "t")

    running.fetch_outputs(tmp_path / "outputs")

    board = Path(connection.home()) / "jobs" / "00112233445566ff" / "outputs"
    assert sorted(os.listdir(tmp_path / "outputs")) == ["a.f32", "a.layers.json"]
    for file in board.iterdir():
        assert (tmp_path / "outputs" / file.name).read_bytes() == file.read_bytes()
