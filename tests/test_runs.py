"""Run directories: one question each."""

import json

import pytest

from lightnas_edge.errors import RunError
from lightnas_edge.runs import create_run, read_architecture, read_json, read_run, write_json
from lightnas_edge.space import load_space

SPACE = load_space("tiny")
ASKED = {"space": SPACE.to_json(), "targets": {"latency_ms": 0.9}, "seed": 0}


def test_a_new_run_is_begun_and_the_same_question_goes_on_with_it(tmp_path):
    assert create_run(tmp_path / "run", ASKED) is False
    assert create_run(tmp_path / "run", ASKED) is True
    record, space = read_run(tmp_path / "run")
    assert record["targets"] == {"latency_ms": 0.9}
    assert space == SPACE


def test_another_question_is_refused_naming_what_differs(tmp_path):
    create_run(tmp_path / "run", ASKED)

    with pytest.raises(RunError, match="seed: was 0, now 1"):
        create_run(tmp_path / "run", {**ASKED, "seed": 1})


def test_of_a_configuration_only_what_differs_is_named(tmp_path):
    config = {f"a_long_name_{index}": index for index in range(20)}
    create_run(tmp_path / "run", {**ASKED, "config": {**config, "confidence": None}})

    with pytest.raises(RunError) as caught:
        create_run(tmp_path / "run", {**ASKED, "config": {**config, "confidence": 0.9}})

    assert str(caught.value).splitlines()[1:] == ["  config.confidence: was null, now 0.9"]


def test_fresh_keeps_the_old_run_beside(tmp_path):
    create_run(tmp_path / "run", ASKED)

    assert create_run(tmp_path / "run", {**ASKED, "seed": 1}, fresh=True) is False
    assert json.loads((tmp_path / "run.old" / "run.json").read_text())["seed"] == 0


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")

    with pytest.raises(RunError, match="is not empty and holds no run"):
        create_run(tmp_path, ASKED)


def test_fresh_does_not_move_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")

    with pytest.raises(RunError, match="is not empty and holds no run"):
        create_run(tmp_path / "home", ASKED, fresh=True)

    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_number_that_is_no_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"latency_ms": float("nan")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ('{"kind": "other", "schema": 1}', "is not a record of kind 'run'"),
        ('{"kind": "run", "schema": 9}', "has schema 9; this program reads up to 1"),
        (None, "does not exist"),
    ],
)
def test_a_damaged_record_is_told_by_name(content, message, tmp_path):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(RunError, match=message):
        read_json(path, kind="run")


def test_a_search_that_has_not_ended_has_no_network(tmp_path):
    create_run(tmp_path / "run", ASKED)

    with pytest.raises(RunError, match="holds no network yet"):
        read_architecture(tmp_path / "run", SPACE)
