"""The search as a whole: within the budget, refused early, resumable to the bit."""

import dataclasses
import gc
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightnas_edge.errors import BudgetError, ConfigError, DataError, DivergedError, InfeasibleBudgetError, RunError
from lightnas_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from lightnas_edge.records.run import SampledPaths
from lightnas_edge.search import SearchConfig, run_search
from lightnas_edge.search.state import SCHEMA
from tests.search.problems import CONFIG, SPACE, budget, data, images, predictor

ROOT = Path(__file__).parents[2]
UNTIMED = {"elapsed_s"}


METHODS = ("shared", "lightnas")


def search(folder, *, target_ms=7.0, config=CONFIG, **more):
    (result,) = run_search(folder, SPACE, more.pop("images", None) or data(), budget(target_ms), config, **more)
    return result


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "search" / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in UNTIMED} for line in lines]


def outcome(folder):
    """Everything that a search writes, without times: the record of a run holds the time when it began."""
    state = load_checkpoint(folder / "search" / "checkpoint.pt", schema=SCHEMA)
    for name in ("elapsed_s", "metrics_bytes"):
        del state[name]
    architecture = json.loads((folder / "architecture.json").read_text())
    del architecture["made_from"]["run_sha256"]
    return metrics(folder), architecture, state


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


@pytest.fixture(scope="module", params=METHODS)
def config(request):
    return dataclasses.replace(CONFIG, method=request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config):
    """A search that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    search(folder, config=config)
    return folder


@pytest.mark.parametrize("target_ms", [1.0, 3.5, 9.0, 100.0])
def test_the_network_found_never_exceeds_the_budget(tmp_path, target_ms, config):
    result = search(tmp_path, target_ms=target_ms, config=dataclasses.replace(config, epochs=2))

    assert result.predicted["latency_ms"] <= target_ms
    latency = json.loads((tmp_path / "architecture.json").read_text())["predicted"]["metrics"]["latency_ms"]
    assert latency["value"] == result.predicted["latency_ms"] == predictor().predict_one(result.architecture)
    assert latency["violation"] <= 0


def test_an_impossible_budget_is_refused_before_any_training(tmp_path):
    with pytest.raises(InfeasibleBudgetError):
        search(tmp_path, target_ms=0.9)

    assert not (tmp_path / "search").exists()


def of_labels(count, labels=(0, 1)):
    """As `images`, of these classes alone."""
    found = images(count)
    found.labels = np.resize(np.array(labels, dtype=np.int64), count)
    return found


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({"train": of_labels(64, [1])}, "all 64 training images are of one class, 'bright'"),
        ({"validation": of_labels(32, [0])}, "all 32 validation images are of one class, 'dark'"),
        ({"validation": of_labels(1)}, "1 validation images in batches of 8: every process needs two in a batch"),
    ],
)
def test_images_that_teach_nothing_are_refused_before_anything_is_written(tmp_path, damaged, message):
    with pytest.raises(DataError, match="cannot learn from the images of imagined") as caught:
        search(tmp_path / "run", images=dataclasses.replace(data(), **damaged))

    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_fewer_images_than_a_batch_are_one_batch(tmp_path, method):
    config = dataclasses.replace(CONFIG, method=method, batch=128, architecture_batch=128)

    result = search(tmp_path, images=data(train=10, validation=6), config=config)

    steps = [line for line in metrics(tmp_path) if line["kind"] == "search-step"]
    assert {(line["phase"], line["images"]) for line in steps} == {
        ("warmup", 10), ("weights", 10), ("architecture", 6),
    }  # fmt: skip
    assert result.predicted["latency_ms"] <= 7.0


def test_a_supernet_of_another_method_is_refused_and_kept(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=2)
    search(tmp_path, config=config)
    path = tmp_path / "search" / "checkpoint.pt"
    content = path.read_bytes()

    with pytest.raises(RunError, match='method: was "shared", now "lightnas"') as caught:
        search(tmp_path, config=dataclasses.replace(config, method="lightnas"))

    assert "--fresh" in caught.value.hint
    assert path.read_bytes() == content


def at_chance(count, seed):
    """Labels that no pixel shows; two thirds are of one class."""
    found = images(count, seed)
    found.labels = (np.arange(count) // 2 % 3 == 0).astype(np.int64)
    return found


def test_a_supernet_that_stays_at_chance_is_reported_while_it_searches_and_in_the_record(tmp_path):
    hopeless = dataclasses.replace(data(), train=at_chance(64, 0), validation=at_chance(48, 1))
    events = []

    result = search(tmp_path, images=hopeless, on_event=events.append)

    (warning,) = [event for event in events if event["kind"] == "warning"]
    assert "after 2 of 4 epochs the supernet is at chance" in warning["text"]
    assert "always answering the most frequent class has 66.7 %" in warning["text"]
    record = json.loads((tmp_path / "architecture.json").read_text())["choice"]["sampled_paths"]
    assert record["chance"] == pytest.approx(2 / 3) and record["images"] == 48
    last = [line for line in metrics(tmp_path) if line["kind"] == "search-epoch"][-1]
    assert record["accuracy"] == last["validation_accuracy"] and last["chance"] == record["chance"]
    assert "the supernet is at chance" in result.sampled_paths.warning


@pytest.mark.parametrize(
    ("accuracy", "images", "above"), [(0.147, 359, False), (0.148, 359, True), (0.115, 5000, True)]
)
def test_chance_is_left_behind_by_more_than_three_standard_errors(accuracy, images, above):
    """Of ten equal classes: 3 * sqrt(0.1 * 0.9 / 359) = 0.0475, and 0.0127 with 5000 images."""
    paths = SampledPaths(accuracy=accuracy, chance=0.1, images=images)

    assert paths.above_chance == above == (paths.warning is None)


def test_a_supernet_that_learns_is_not_warned_of(tmp_path):
    events = []

    result = search(
        tmp_path, images=data(128, 64), config=dataclasses.replace(CONFIG, epochs=8), on_event=events.append
    )

    assert result.sampled_paths.accuracy > 0.9 and result.sampled_paths.warning is None
    assert "warning" not in {event["kind"] for event in events}


@pytest.mark.parametrize("target_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(tmp_path, target_ms):
    with pytest.raises(BudgetError):
        search(tmp_path, target_ms=target_ms)


def test_every_step_leaves_a_line(whole):
    lines = metrics(whole)

    assert [line["phase"] for line in lines if line["kind"] == "search-epoch"] == [
        "warmup",
        "search",
        "search",
        "search",
    ]
    steps = [(line["epoch"], line["phase"], line["step"]) for line in lines if line["kind"] == "search-step"]
    assert steps == [(0, "warmup", step) for step in range(4)] + [
        (epoch, phase, step) for epoch in (1, 2, 3) for phase in ("weights", "architecture") for step in range(4)
    ]
    assert all(1.0 <= line["sampled"]["latency_ms"] <= 17.0 for line in lines if line["kind"] == "search-step")
    assert next(line for line in lines if line["kind"] == "search-step")["sampled"]["latency_ms"] == pytest.approx(
        9.0
    ), "all operators once"


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(whole, tmp_path, config):
    search(tmp_path / "same", config=config)
    search(tmp_path / "other", config=dataclasses.replace(config, seed=1))

    assert_same(outcome(whole), outcome(tmp_path / "same"))
    assert metrics(whole) != metrics(tmp_path / "other")


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [2, 6, 9, 13, 27])
def test_a_search_cut_off_anywhere_ends_as_if_it_had_not_been(whole, tmp_path, after, monkeypatch, config):
    """The cut comes without warning, as from kill -9; checkpoints are at every third step."""
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)
    seen = 0

    def cut(event):
        nonlocal seen
        seen += event["kind"] == "search-step"
        if seen == after:
            raise Stop

    frequent = dataclasses.replace(config, checkpoint_s=0.02)
    with pytest.raises(Stop):
        search(tmp_path, config=frequent, on_event=cut)

    search(tmp_path, config=config)

    assert_same(outcome(whole), outcome(tmp_path))


@pytest.mark.parametrize(
    ("method", "evidence"), [("entangled", "losses"), ("entangled", "gradients"), ("shared", "gradients")]
)
def test_a_search_with_other_weights_and_evidence_keeps_the_budget_and_resumes(tmp_path, monkeypatch, method, evidence):
    """Entangled: two paths in every weight step; the checkpoint holds the cuts once."""
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)
    config = dataclasses.replace(CONFIG, method=method, evidence=evidence)
    seen = []

    def cut(event):
        seen.append(event)
        if [each["kind"] for each in seen].count("search-step") == 9:
            raise Stop

    result = search(tmp_path / "whole", config=config)
    with pytest.raises(Stop):
        search(tmp_path / "cut", config=dataclasses.replace(config, checkpoint_s=0.0), on_event=cut)
    search(tmp_path / "cut", config=config)

    assert result.predicted["latency_ms"] <= 7.0
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))


def test_ctrl_c_stops_after_the_step_and_keeps_it(whole, tmp_path, monkeypatch, config):
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)

    def interrupt(event):
        if (event["kind"], event.get("epoch"), event.get("phase"), event.get("step")) == (
            "search-step",
            1,
            "architecture",
            2,
        ):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, config=config, on_event=interrupt)
    state = load_checkpoint(tmp_path / "search" / "checkpoint.pt", schema=SCHEMA)
    assert (state["epoch"], state["phase"], state["step"]) == (1, "architecture", 3)

    events = []
    search(tmp_path, config=config, on_event=events.append)

    step = events[0]["weight_steps"] + 3  # the weights had their part of the epoch, and progress begins behind it
    assert events[0] | {"kind": "start", "epoch": 1, "step": step, "resumed": True} == events[0]
    assert_same(outcome(whole), outcome(tmp_path))


@pytest.mark.parametrize("chance", range(3))
def test_kill_9_at_any_moment_loses_at_most_what_came_after_the_checkpoint(whole, tmp_path, chance, config):
    """Each time at another, random step: the process is killed after that number of checkpoints."""
    wanted = random.Random(chance).randint(1, 12)
    code = (
        f"import torch, dataclasses, sys, pathlib; torch.set_num_threads({torch.get_num_threads()})\n"
        "from lightnas_edge.nn import loop as module\n"
        "from tests.search.test_run_search import search, CONFIG\n"
        "module.AGREE_STEPS, real = 1, module.save_checkpoint\n"
        "def answer(path, state):\n"
        "    real(path, state)\n"
        "    print(state['epoch'], state['phase'], state['step'], flush=True)\n"
        "module.save_checkpoint = answer\n"
        f"config = dataclasses.replace(CONFIG, method={config.method!r}, checkpoint_s=0.0)\n"
        "search(pathlib.Path(sys.argv[1]), config=config)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(wanted)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert all(lines), "it was killed in the middle"

    search(tmp_path, config=config)

    assert_same(outcome(whole), outcome(tmp_path))


def test_the_cost_is_estimated_before_the_first_step_and_changes_no_bit(whole, tmp_path, monkeypatch, config):
    monkeypatch.setattr("lightnas_edge.nn.loop.TIME_FROM_STEPS", 28)
    events = []

    search(tmp_path, config=config, on_event=events.append)

    (estimate,) = [event for event in events if event["kind"] == "estimate"]
    assert events.index(estimate) == 1, "after the start, before any step"
    assert estimate["steps"] == 28 == sum(event["kind"] == "search-step" for event in events)
    assert estimate["seconds"] > 0 and estimate["memory_mb"] > 50
    assert_same(outcome(whole), outcome(tmp_path))


def test_a_search_of_a_few_steps_is_not_timed_beforehand(tmp_path):
    events = []

    search(tmp_path, config=dataclasses.replace(CONFIG, epochs=2), on_event=events.append)

    (estimate,) = [event for event in events if event["kind"] == "estimate"]
    assert estimate["steps"] == sum(event["kind"] == "search-step" for event in events)
    assert estimate["seconds"] is estimate["memory_mb"] is None


def test_a_finished_search_is_read_not_run_again(whole, config):
    events = []

    result = search(whole, config=config, on_event=events.append)

    assert {event["kind"] for event in events} <= {"start", "candidate"}
    assert result.predicted["latency_ms"] <= 7.0


def test_another_question_is_not_mixed_into_a_run(whole, config):
    with pytest.raises(RunError, match=r"budgets: was .*7\.0.*, now .*8\.0") as caught:
        search(whole, target_ms=8.0, config=config)

    assert "--fresh" in caught.value.hint


def test_without_resume_a_search_begins_again(tmp_path):
    search(tmp_path, target_ms=7.0, config=dataclasses.replace(CONFIG, epochs=2))

    events = []
    search(tmp_path, target_ms=8.0, config=dataclasses.replace(CONFIG, epochs=2), resume=False, on_event=events.append)

    assert events[0]["resumed"] is False
    assert sum(line["kind"] == "search-epoch" for line in metrics(tmp_path)) == 2


def test_a_damaged_checkpoint_is_named_with_its_remedy(tmp_path):
    search(tmp_path, config=dataclasses.replace(CONFIG, epochs=2))
    path = tmp_path / "search" / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged") as caught:
        search(tmp_path, config=dataclasses.replace(CONFIG, epochs=2))

    assert "--fresh" in caught.value.hint
    assert path.read_bytes() == content


def test_a_checkpoint_of_another_schema_is_refused(tmp_path):
    search(tmp_path, config=dataclasses.replace(CONFIG, epochs=2))
    save_checkpoint(tmp_path / "search" / "checkpoint.pt", {"schema": 1, "identity": {}})

    with pytest.raises(RunError, match=rf"has schema 1; this version reads schema {SCHEMA}") as caught:
        search(tmp_path, config=dataclasses.replace(CONFIG, epochs=2))

    assert "--fresh" in caught.value.hint


def test_a_loss_that_is_no_number_stops_the_search_and_spares_the_checkpoint(tmp_path, monkeypatch):
    from lightnas_edge.search import strategy as module

    real, calls = module.weight_step, 0

    def poisoned(*arguments, **more):
        nonlocal calls
        calls += 1
        outcome = real(*arguments, **more)
        return dataclasses.replace(outcome, loss=outcome.loss * float("nan")) if calls == 6 else outcome

    monkeypatch.setattr(module, "weight_step", poisoned)
    with pytest.raises(DivergedError, match=r"the loss became nan at epoch 1, step 1 of phase weights") as caught:
        search(tmp_path)

    assert "smaller weight step" in caught.value.hint
    assert not (tmp_path / "search" / "checkpoint.pt").exists()


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    search(tmp_path, config=dataclasses.replace(CONFIG, epochs=2))

    assert torch.equal(torch.rand(1), expected)


def test_all_faults_of_a_configuration_come_in_one_message():
    with pytest.raises(ConfigError, match=r"epochs.*\n.*weight_lr.*\n.*confidence: expected a number from 0.5"):
        SearchConfig(epochs=1, weight_lr=-1.0, confidence=0.4)


def test_the_processes_that_decode_images_end_with_the_search(tmp_path):
    """Left to the garbage collector, each of them may keep the program waiting for 5 s."""
    gc.disable()
    try:
        search(tmp_path, images=dataclasses.replace(data(), workers=1))
        remaining = multiprocessing.active_children()
    finally:
        gc.enable()

    assert remaining == []
