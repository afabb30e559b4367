"""Job directories: what an agent measures."""

import hashlib
import json

import numpy as np
import onnx
import pytest

from lightnas_edge.errors import SpaceError
from lightnas_edge.measuring import (
    MeasurementProtocol,
    Settings,
    network_key,
    reference_architectures,
    sample_architectures,
    select_operators,
    sentinels,
    write_model_job,
    write_profile_job,
    write_sample_job,
    write_verify_job,
)
from lightnas_edge.space import load_space

TINY = load_space("tiny")


def manifest(job):
    return json.loads((job.folder / "manifest.json").read_text())


def test_a_profile_job_holds_every_operator_once_with_a_model_named_by_its_content(tmp_path):
    job = write_profile_job(tmp_path, TINY, Settings(protocol=MeasurementProtocol(rounds=4)))

    rows = manifest(job)["measurements"]

    assert sorted(row["key"] for row in rows) == sorted(shaped.key for shaped in TINY.shaped_operators())
    assert job.visits == 4 * len(rows)
    for row in rows:
        content = (tmp_path / "models" / f"{row['model']}.onnx").read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["model"]
        onnx.checker.check_model(onnx.load_model_from_string(content))


def test_more_rounds_and_fewer_operators_are_the_same_job(tmp_path):
    """So that `--rounds` and `--only` add to what was measured instead of starting a new table."""
    whole = write_profile_job(tmp_path / "a", TINY, Settings())
    more = write_profile_job(tmp_path / "b", TINY, Settings(protocol=MeasurementProtocol(rounds=99, seed=7)))
    part = write_profile_job(tmp_path / "c", TINY, Settings(), operators=TINY.shaped_operators()[:2])
    other = write_profile_job(tmp_path / "d", TINY, Settings(batch=8))

    assert whole.job == more.job == part.job
    assert other.job != whole.job


def test_cuda_graphs_are_another_job_and_as_a_table_was_measured(tmp_path):
    usual = write_profile_job(tmp_path / "a", TINY, Settings())
    graphs = write_profile_job(tmp_path / "b", TINY, Settings(cuda_graph=True))

    assert manifest(graphs)["cuda_graph"] is True and graphs.job != usual.job
    assert Settings.like({"cuda_graph": True}, MeasurementProtocol()).cuda_graph


def test_the_time_limit_of_a_build_is_in_the_manifest_and_not_in_the_jobs_name(tmp_path):
    usual = write_profile_job(tmp_path / "a", TINY, Settings())
    patient = write_profile_job(tmp_path / "b", TINY, Settings(build_timeout_s=7200.0))

    assert manifest(usual)["build_timeout_s"] == 3600.0
    assert manifest(patient)["build_timeout_s"] == 7200.0
    assert usual.job == patient.job


def test_only_takes_keys_layers_blocks_and_globs():
    assert [shaped.key for shaped in select_operators(TINY, ["stem"])] == ["stem@3x32-16s2"]
    assert [shaped.key for shaped in select_operators(TINY, ["mbconv_k3_e6@2"])] == ["mbconv_k3_e6@24x8-40s2"]
    assert [shaped.key for shaped in select_operators(TINY, ["skip@40x4-80s2"])] == ["skip@40x4-80s2"]
    assert {shaped.block for shaped in select_operators(TINY, ["*_e3@*"])} == {"mbconv_k3_e3", "mbconv_k5_e3"}


def test_only_names_every_pattern_that_matches_nothing():
    with pytest.raises(SpaceError, match=r"no operator of space tiny matches mbconv_k7_e6@1, steam") as caught:
        select_operators(TINY, ["stem", "mbconv_k7_e6@1", "steam"])

    assert "NAME@LAYER" in caught.value.hint


def test_more_samples_contain_the_fewer_ones():
    assert sample_architectures(TINY, 20, seed=3)[:5] == sample_architectures(TINY, 5, seed=3)
    assert len(set(sample_architectures(TINY, 20, seed=3))) == 20


def test_the_reference_set_comes_first_whatever_the_seed():
    reference = reference_architectures(TINY)

    assert len(set(reference)) == 10
    assert sample_architectures(TINY, 14, seed=3)[:10] == reference == sample_architectures(TINY, 10, seed=7)
    assert sample_architectures(TINY, 14, seed=3)[10:] != sample_architectures(TINY, 14, seed=7)[10:]


def test_a_sample_job_measures_the_sentinels_and_the_networks(tmp_path):
    networks = sample_architectures(TINY, 3, seed=0)

    rows = manifest(write_sample_job(tmp_path, TINY, Settings(), networks))["measurements"]

    keys = [row["key"] for row in rows]
    assert keys == [*(shaped.key for shaped in sentinels(TINY)), *(network_key(network) for network in networks)]
    assert rows[-1]["architecture"] == networks[-1].to_json()


def test_sentinels_span_the_space_from_fast_to_slow():
    chosen = sentinels(load_space("lightnas"))

    assert len(chosen) == len(set(chosen)) == 12
    assert chosen == sentinels(load_space("lightnas"))


def test_a_verify_job_carries_the_model_and_its_inputs(tmp_path):
    network = sample_architectures(TINY, 1, seed=0)[0]
    inputs = np.arange(2 * 3 * 32 * 32, dtype=np.float32).reshape(2, 3, 32, 32)

    record = manifest(write_verify_job(tmp_path, TINY, Settings(), network, b"model", inputs=inputs))

    evaluation = record["evaluations"][0]
    content = (tmp_path / "data" / f"{evaluation['inputs']}.f32").read_bytes()
    assert np.array_equal(np.frombuffer(content, "<f4").reshape(inputs.shape), inputs)
    assert (evaluation["runs"], evaluation["run_bytes"]) == (2, 3 * 32 * 32 * 4)
    assert evaluation["model"] == hashlib.sha256(b"model").hexdigest()
    assert record["measurements"][-1]["key"] == evaluation["key"] == network_key(network)


def test_an_inference_of_a_verification_takes_a_batch_of_images(tmp_path):
    network = sample_architectures(TINY, 1, seed=0)[0]
    inputs = np.zeros((4, 3, 32, 32), dtype=np.float32)

    evaluation = manifest(write_verify_job(tmp_path, TINY, Settings(batch=2), network, b"model", inputs=inputs))[
        "evaluations"
    ][0]

    assert (evaluation["runs"], evaluation["run_bytes"]) == (2, 2 * 3 * 32 * 32 * 4)


def test_a_job_about_a_model_file_has_neither_space_nor_batch_nor_sentinels(tmp_path):
    content = b"model"
    job = write_model_job(
        tmp_path, Settings(), content, {"name": "net.onnx"}, inputs=bytes(48), runs=3, layer_profile=True
    )

    record = manifest(job)
    key = "model-" + hashlib.sha256(content).hexdigest()[:12]
    assert job.keys == (key,) and record["purpose"] == "model"
    assert [record[field] for field in ("space", "space_sha256", "classes", "batch", "sentinels")] == [None] * 4 + [[]]
    assert record["measurements"] == [
        {"key": key, "model": hashlib.sha256(content).hexdigest(), "model_file": {"name": "net.onnx"}}
    ]
    assert (record["evaluations"][0]["runs"], record["evaluations"][0]["run_bytes"]) == (3, 16)
    assert record["layer_profiles"] == [key]
    assert (tmp_path / "models" / f"{record['measurements'][0]['model']}.onnx").read_bytes() == content


def test_a_job_about_a_model_file_without_inputs_evaluates_nothing(tmp_path):
    record = manifest(write_model_job(tmp_path, Settings(), b"model", {"name": "net.onnx"}))

    assert (record["evaluations"], record["layer_profiles"]) == ([], [])


def test_inputs_that_do_not_divide_into_the_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="47 bytes of inputs do not divide into 3 runs"):
        write_model_job(tmp_path, Settings(), b"model", {}, inputs=bytes(47), runs=3)


def test_another_model_or_another_sustained_load_is_another_job_and_more_rounds_are_not(tmp_path):
    def name(model=b"model", **protocol):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return write_model_job(folder, Settings(protocol=MeasurementProtocol(**protocol)), model, {}).job

    assert name() == name(rounds=99) == name(inferences_per_visit=20)
    assert len({name(), name(b"other"), name(sustained_s=600.0), name(sustained_s=60.0)}) == 4


def test_networks_are_timed_inference_by_inference_under_a_version_of_the_protocol_of_its_own(tmp_path):
    protocol = manifest(write_profile_job(tmp_path, TINY, Settings()))["protocol"]

    assert (protocol["version"], protocol["inferences_per_visit"], protocol["sustained_s"]) == (3, 10, 0.0)
