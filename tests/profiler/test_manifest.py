"""A faulty job is refused with all its faults at once; the order of visits is the job's alone."""

import json

import pytest

from profiler.errors import ManifestError
from profiler.fields import RecordError
from profiler.manifest import BoardSetup, EnergyRounds, Manifest, read_manifest
from profiler.plan import visiting_order

SHA = "a" * 64
PROTOCOL = {
    "version": 1,
    "seed": 0,
    "rounds": 2,
    "samples_per_visit": 3,
    "warmup_ms": 1.0,
    "min_sample_ms": 1.0,
    "timeout_s": 9.0,
}


def manifest(**changes):
    return {
        "kind": "job",
        "schema": 1,
        "job": "0" * 16,
        "purpose": "profile",
        "space": "tiny",
        "space_sha256": SHA,
        "classes": 10,
        "backend": "onnxruntime",
        "precision": "fp32",
        "batch": 2,
        "threads": 1,
        "protocol": PROTOCOL,
        "sentinels": ["skip@3x8-3s1"],
        "measurements": [{"key": "skip@3x8-3s1", "model": SHA, "operator": {}}],
        "evaluations": [],
    } | changes


def faults(record):
    with pytest.raises(RecordError) as caught:
        Manifest.from_json(record)
    return caught.value.faults


def refusal(folder, record):
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError) as caught:
        read_manifest(str(folder))
    return caught.value


def test_a_good_manifest_is_read_into_records():
    read = Manifest.from_json(
        manifest(
            energy={"rounds": 2, "steady_s": 5.0},
            board_setup={"lock_clocks": True, "power_mode": None},
            evaluations=[{"key": "net-1", "model": SHA, "inputs": SHA, "runs": 4, "run_bytes": 768}],
            layer_profiles=["skip@3x8-3s1"],
        )
    )

    assert (read.protocol.rounds, read.protocol.spread_limit, read.protocol.extra_rounds) == (2, None, 0)
    assert read.energy == EnergyRounds(2, 5.0)
    assert read.board_setup == BoardSetup(True, None)
    assert (read.measurements[0].key, read.measurements[0].kind) == ("skip@3x8-3s1", "operator")
    assert (read.protocol.inferences_per_visit, read.protocol.round_s, read.protocol.sustained_s) == (10, 0.0, 0.0)
    assert (read.evaluations[0].runs, read.evaluations[0].run_bytes) == (4, 768)
    assert read.layer_profiles == ["skip@3x8-3s1"]


def about_a_model_file(**changes):
    row = {"key": "model-1", "model": SHA, "model_file": {"name": "net.onnx"}}
    none = {"space": None, "space_sha256": None, "classes": None, "batch": None, "sentinels": []}
    return manifest(purpose="model", measurements=[row], **none) | changes


def test_a_job_about_a_model_file_has_no_space_and_no_batch():
    read = Manifest.from_json(about_a_model_file())

    assert (read.space, read.space_sha256, read.classes, read.batch) == (None, None, None, None)
    assert (read.measurements[0].kind, read.measurements[0].subject) == ("model_file", {"name": "net.onnx"})


@pytest.mark.parametrize(("field", "value"), [("space", "tiny"), ("space_sha256", SHA), ("classes", 10), ("batch", 1)])
def test_space_and_batch_are_null_together_and_only_about_a_model_file(field, value):
    fault = f"{field}: expected null in a job of purpose model, and a value in any other"

    assert faults(about_a_model_file(**{field: value})) == [fault]
    assert faults(manifest(**{field: None})) == [fault]


def test_only_a_network_can_be_under_sustained_load():
    protocol = dict(PROTOCOL, sustained_s=60.0)

    assert Manifest.from_json(about_a_model_file(protocol=protocol)).protocol.sustained_s == 60.0
    assert faults(manifest(protocol=protocol)) == ["protocol.sustained_s: the job has no network to run under load"]


def test_all_faults_come_in_one_message_each_with_the_value_found(tmp_path):
    message = str(refusal(tmp_path, manifest(batch=0, purpose="fun", sentinels=None)))

    assert "batch: expected a whole number from 1 to 2147483647, found 0" in message
    assert 'purpose: expected profile or sample or verify or model, found "fun"' in message
    assert "sentinels: expected a list of keys, found null" in message


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"schema": 2}, "schema: 2; this agent reads up to 1: update lightnas-edge"),
        ({"job": "../x"}, 'job: expected a name of letters, digits and _ . @ -, found "../x"'),
        ({"job": "x\n"}, 'job: expected a name of letters, digits and _ . @ -, found "x\\n"'),
        ({"hurry": True}, "hurry: unknown field"),
        ({"protocol": {}}, "protocol.timeout_s: missing"),
        ({"protocol": dict(PROTOCOL, patience=1)}, "protocol.patience: unknown field"),
        (
            {"measurements": [{"key": "../../etc", "model": SHA, "operator": {}}]},
            'measurements[0].key: expected a name of letters, digits and _ . @ -, found "../../etc"',
        ),
        (
            {"measurements": [{"key": "a", "model": 7, "operator": {}}]},
            "measurements[0].model: expected a SHA-256, found 7",
        ),
        (
            {"measurements": [{"key": "a", "model": SHA}]},
            "measurements[0]: expected one of operator, architecture and model_file, found none",
        ),
        (
            {"measurements": [{"key": "a", "model": SHA, "operator": {}, "model_file": {}}]},
            "measurements[0]: expected one of operator, architecture and model_file, found operator and model_file",
        ),
        ({"measurements": [7]}, "measurements[0]: expected an object, found 7"),
        (
            {"measurements": [{"key": "a", "model": SHA, "operator": {}}] * 2},
            'measurements[1].key: "a" is the key of measurements[0] already',
        ),
        (
            {"evaluations": [{"key": "a", "model": SHA, "inputs": SHA, "runs": 0, "run_bytes": 8}]},
            "evaluations[0].runs: expected a whole number from 1 to 2147483647, found 0",
        ),
        ({"layer_profiles": ["net-1"]}, 'layer_profiles: "net-1" is the key of no measurement'),
        ({"energy": {"rounds": 1, "steady_s": 1}}, "energy.steady_s: expected a number from 3 to 1e+06, found 1"),
    ],
)
def test_each_fault_has_its_path(changes, fault):
    assert fault in faults(manifest(**changes))


def test_a_missing_job_directory_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ManifestError, match=r"cannot read .*none/manifest.json: No such file"):
        read_manifest(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8 text at byte 0"),
        (b'{"kind": NaN}', "NaN is not a number"),
        (b'{"kind": 1e999}', "the number 1e999 is too large"),
        (b'{"kind": 1' + b"0" * 10_000 + b"}", "the number 100000000000000000000000... is too large"),
        (b"[]", "the record: expected an object, found a list of 0"),
    ],
)
def test_a_file_that_is_no_record_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(ManifestError) as caught:
        read_manifest(str(tmp_path))

    assert reason in str(caught.value)


def test_a_fault_that_comes_from_an_option_has_that_option_as_its_remedy(tmp_path):
    seed = refusal(tmp_path, manifest(protocol=dict(PROTOCOL, seed=-1)))
    mode = refusal(tmp_path, manifest(board_setup={"lock_clocks": False, "power_mode": "-1"}))
    both = refusal(tmp_path, manifest(protocol=dict(PROTOCOL, seed=-1), sentinels=7))

    assert "protocol.seed: expected a whole number from 0 to 9223372036854775807, found -1" in seed.message
    assert seed.remedy == "give another value to --seed"
    assert mode.remedy == "give another value to --power-mode"
    assert both.remedy == "give another value to --seed; write the job directory again"


def test_each_round_is_a_permutation_of_its_own_and_the_same_every_time():
    keys = [f"op{number}" for number in range(8)]
    first, second = visiting_order(keys, 0, 0), visiting_order(keys, 0, 1)

    assert sorted(first) == sorted(second) == keys
    assert first != second
    assert visiting_order(keys[::-1], 0, 0) == first
    assert visiting_order(["a", "b", "c", "d"], 0, 0) == ["a", "d", "b", "c"]  # on every Python
