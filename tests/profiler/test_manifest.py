"""A faulty job is refused with all its faults at once; the order of visits is the job's alone."""

import json

import pytest

from profiler.errors import ManifestError
from profiler.manifest import check, read_manifest
from profiler.plan import visiting_order

SHA = "a" * 64


def manifest(**changes):
    return {
        "kind": "job",
        "schema": 1,
        "job": "0" * 16,
        "purpose": "profile",
        "space": "tiny",
        "space_sha256": SHA,
        "backend": "onnxruntime",
        "precision": "fp32",
        "batch": 2,
        "threads": 1,
        "protocol": {
            "version": 1,
            "seed": 0,
            "rounds": 2,
            "samples_per_visit": 3,
            "warmup_ms": 1.0,
            "min_sample_ms": 1.0,
            "timeout_s": 9.0,
        },
        "sentinels": ["skip@3x8-3s1"],
        "measurements": [{"key": "skip@3x8-3s1", "model": SHA, "operator": {}}],
        "evaluations": [],
    } | changes


def test_a_good_manifest_has_no_faults():
    assert check(manifest()) == []


def test_all_faults_come_in_one_message_each_with_the_value_found(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(batch=0, purpose="fun", sentinels=None)))

    with pytest.raises(ManifestError) as caught:
        read_manifest(str(tmp_path))

    assert "batch is 0, not a whole number above 0" in str(caught.value)
    assert "purpose is 'fun', not profile, sample or verify" in str(caught.value)
    assert "sentinels is None" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"schema": 2}, "schema 2; this agent knows up to 1"),
        ({"job": "../x"}, "job is '../x'"),
        ({"protocol": {}}, "protocol.timeout_s is None"),
        ({"measurements": [{"key": "../../etc", "model": SHA, "operator": {}}]}, "measurements[0].key is '../../etc'"),
        ({"measurements": [{"key": "a", "model": "b", "operator": {}}]}, "measurements[0].model is 'b'"),
        ({"measurements": [{"key": "a", "model": SHA}]}, "not about one operator or one architecture"),
        ({"measurements": [{"key": "a", "model": SHA, "operator": {}}] * 2}, "it stands there twice"),
        ({"evaluations": [{"key": "a", "model": SHA, "inputs": SHA, "shape": [3, 8]}]}, "a multiple of the batch size"),
    ],
)
def test_each_fault_is_named(changes, fault):
    assert any(fault in found for found in check(manifest(**changes)))


def test_a_missing_job_directory_is_told(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(str(tmp_path / "none"))


def test_each_round_is_a_permutation_of_its_own_and_the_same_every_time():
    keys = [f"op{number}" for number in range(8)]
    first, second = visiting_order(keys, 0, 0), visiting_order(keys, 0, 1)

    assert sorted(first) == sorted(second) == keys
    assert first != second
    assert visiting_order(keys[::-1], 0, 0) == first
    assert visiting_order(["a", "b", "c", "d"], 0, 0) == ["a", "d", "b", "c"]  # on every Python
