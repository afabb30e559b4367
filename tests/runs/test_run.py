"""Run directories: one question each, one writer, and a chain of records that holds."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from lightnas_edge.errors import LightnasEdgeError, RunError, StaleRecordError
from lightnas_edge.files import write_atomic, write_json
from lightnas_edge.nn import Network
from lightnas_edge.runs import Run, write_lock
from lightnas_edge.space import Architecture, load_space
from tests import run_folders
from tests.mutations import mutated_json

SPACE = load_space("tiny")
FOUND = Architecture.random(SPACE, np.random.default_rng(0))


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(SPACE.with_classes(2), FOUND)


@pytest.fixture
def trained(tmp_path):
    run = run_folders.find(run_folders.begin(tmp_path / "run", SPACE), FOUND)
    return run_folders.train(run, network(0))


def test_a_new_run_is_begun_and_resumed_under_the_same_question(tmp_path):
    first, resumed = Run.begin(tmp_path / "run", run_folders.question(SPACE))
    again, resumed_again = Run.begin(tmp_path / "run", run_folders.question(SPACE))

    assert (resumed, resumed_again) == (False, True)
    assert again.record == first.record
    assert (again.targets, again.space) == ({"latency_ms": 0.5}, SPACE)


def test_another_question_is_refused_with_what_differs(tmp_path):
    run_folders.begin(tmp_path / "run", SPACE, config={"epochs": 90, "confidence": None})

    with pytest.raises(RunError) as caught:
        run_folders.begin(tmp_path / "run", SPACE, seed=1, config={"epochs": 90, "confidence": 0.9})

    lines = str(caught.value).splitlines()[1:]
    assert sorted(lines) == ["  config.confidence: was null, now 0.9", "  seed: was 0, now 1"]


def test_the_way_to_the_board_is_no_part_of_the_question(tmp_path):
    run_folders.begin(tmp_path / "run", SPACE, host="bench")

    assert run_folders.begin(tmp_path / "run", SPACE, host="192.168.0.7").record.host == "bench"


def test_fresh_keeps_the_earlier_run_as_old(tmp_path):
    run_folders.begin(tmp_path / "run", SPACE)

    _, resumed = Run.begin(tmp_path / "run", run_folders.question(SPACE, seed=1), fresh=True)

    assert resumed is False
    assert Run.open(tmp_path / "run.old").record.seed == 0


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_other_files_is_left_alone(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("precious")

    with pytest.raises(RunError, match="is not empty and holds no run"):
        Run.begin(tmp_path, run_folders.question(SPACE), fresh=fresh)

    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        ('{"kind": "other", "schema": 1}', "is not a record of kind 'run'"),
        ('{"kind": "run", "schema": 9}', "has schema 9; this program reads 2"),
        ('{"kind": "run", "schema": -3}', "has schema -3; this program reads 2"),
        ('{"kind": "run", "schema": 0}', "has schema 0; this program reads 2"),
        (None, "does not exist"),
    ],
)
def test_a_damaged_record_is_named(content, message, tmp_path):
    if content is not None:
        write_atomic(tmp_path / "run.json", content)

    with pytest.raises(RunError, match=message):
        Run.open(tmp_path)


def test_all_errors_of_a_record_are_in_one_message_with_their_paths(tmp_path):
    record = run_folders.begin(tmp_path / "run", SPACE).record.to_json()
    record["data"]["classes"] = ["one"]
    record["seed"] = "zero"
    record["colour"] = "green"
    write_json(tmp_path / "run" / "run.json", record)

    with pytest.raises(RunError) as caught:
        Run.open(tmp_path / "run")

    text = str(caught.value)
    assert "holds 3 errors" in text
    assert "data.classes: " in text
    assert "seed: " in text
    assert "colour: unknown field" in text


def test_no_content_of_a_run_directory_ends_in_a_traceback(trained):
    """Wrong types, missing fields, NaN, huge integers, deep nesting, wrong encoding: 600 of each file."""
    names = ["run.json", "architecture.json", "train/result.json"]
    refused = 0
    for name in names:
        path = trained.folder / name
        content, generator = path.read_bytes(), random.Random(name)
        for _ in range(600):
            path.write_bytes(mutated_json(json.loads(content), generator))
            try:
                _ = Run.open(trained.folder).weights
            except LightnasEdgeError:
                refused += 1
        path.write_bytes(content)
    assert refused > 1000


def test_a_search_that_has_not_ended_has_no_network(tmp_path):
    with pytest.raises(RunError, match="holds no network yet"):
        _ = run_folders.begin(tmp_path / "run", SPACE).architecture


def test_a_search_with_several_networks_names_them(tmp_path):
    run = run_folders.begin(tmp_path / "run", SPACE)
    below = run_folders.begin(run.folder / "networks" / "20ms", SPACE, search="../..")
    run_folders.find(below, FOUND)

    with pytest.raises(RunError, match="holds 1 networks: name one of them") as caught:
        _ = run.architecture
    assert caught.value.hint == str(below.folder)


def test_the_network_of_another_run_is_refused(trained, tmp_path):
    other = run_folders.find(run_folders.begin(tmp_path / "other", SPACE, seed=1), FOUND)
    shutil.copy(other.folder / "architecture.json", trained.folder / "architecture.json")

    with pytest.raises(StaleRecordError, match="belongs to another run"):
        _ = trained.architecture


def test_the_weights_of_another_network_are_refused(trained, tmp_path):
    another = Architecture.random(SPACE, np.random.default_rng(1))
    run_folders.find(trained, another)

    with pytest.raises(StaleRecordError, match="are of another architecture"):
        _ = trained.weights


def test_weights_that_have_changed_are_refused(trained):
    path = trained.folder / "train" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(StaleRecordError, match="is not the file that"):
        _ = trained.weights


def test_a_predictor_that_has_changed_is_refused(tmp_path):
    run = run_folders.begin(tmp_path / "run", SPACE)
    run.save_predictor("latency_ms", "{}")
    run_folders.find(run, FOUND)
    assert run.predictors == {"latency_ms": run.folder / "predictor.json"}
    run.save_predictor("latency_ms", "{ }")

    with pytest.raises(StaleRecordError, match="has changed since the network was chosen with it"):
        _ = run.predictors


def test_a_table_that_has_changed_is_refused(tmp_path):
    run = run_folders.begin(tmp_path / "run", SPACE)
    run.save_table(b"one\n")
    run_folders.find(run, FOUND)
    run.save_table(b"two\n")

    with pytest.raises(StaleRecordError, match="has changed since the network was chosen"):
        _ = run.table


def test_a_second_writer_is_refused_and_reported_who_writes(tmp_path):
    code = textwrap.dedent("""
        import sys, pathlib
        from lightnas_edge.errors import RunError
        from lightnas_edge.runs import write_lock
        try:
            with write_lock(pathlib.Path(sys.argv[1]), "search"):
                print("written")
        except RunError as error:
            print(error)
    """)

    def second():
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with write_lock(tmp_path / "run", "train"), write_lock(tmp_path / "run", "save"):
        refused = second()

    assert f"another process writes to {tmp_path / 'run'}: train, pid {os.getpid()}, since" in refused
    assert second() == "written"


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    code = "import pathlib, sys, time; from lightnas_edge.runs import write_lock\n"
    code += "with write_lock(pathlib.Path(sys.argv[1]), 'search'): print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(RunError, match="another process writes"), write_lock(tmp_path, "train"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()

    with write_lock(tmp_path, "train"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
