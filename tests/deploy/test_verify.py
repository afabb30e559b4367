"""A verification measures the exported file and nothing else, and says what it could not compare."""

import dataclasses
import json

import pytest
from PIL import Image

import devices
from lightnas_edge.deploy import default_host, export_network, run_settings, verify_export, verify_network
from lightnas_edge.errors import DataError, RunError, StaleRecordError, VerifyError
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, sentinels, write_profile_job
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space
from tests import run_folders
from tests.deploy.conftest import FINGERPRINT, FOUND, SPACE, network, write_table

LOCAL = devices.connect("localhost")
SETTINGS = Settings(protocol=MeasurementProtocol(rounds=12, min_sample_ms=0.5, warmup_ms=1.0))


@pytest.fixture
def exported(run_folder):
    export_network(run_folder)
    return run_folder


@pytest.mark.timeout(120)
def test_the_whole_way_on_this_machine(exported, monkeypatch, tmp_path):
    """The real agent measures and evaluates; the verdict depends on the machine, the rest does not."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    board = devices.connect("localhost")
    space = Space.from_json(json.loads((exported / "run.json").read_text())["space"])
    (exported / "lut.jsonl").unlink()
    job = write_profile_job(tmp_path / "job", space, SETTINGS, operators=sentinels(space))
    measure(board, job, exported / "lut.jsonl")
    run_folders.find(Run.open(exported), Run.open(exported).architecture)

    found = verify_network(exported, board, targets={"latency_ms": 1000.0}, settings=SETTINGS, images=100)

    record = json.loads(found.path.read_text())
    assert record == found.record.to_json()
    measured = record["measured"]
    assert measured["inferences_per_sample"] == 1  # the timer is fine enough for a single inference of this network
    assert len(measured["samples_ms"]) == measured["rounds"] == SETTINGS.protocol.rounds
    assert sum(map(len, measured["samples_ms"])) == measured["n"] >= 10 * measured["rounds"]
    assert measured["min_ms"] <= measured["median"]["latency_ms"] <= measured["p95"]["latency_ms"] <= measured["max_ms"]
    assert record["outputs"]["images"] == 100
    assert record["outputs"]["cosine"] > 0.9999
    assert record["accuracy"]["top1"] == record["accuracy"]["reference_top1"]
    assert record["simulated"] is False
    assert found.line.startswith("measured p50 ")
    assert "at most 1000.0: met" in found.line


def test_the_record_has_the_fields_of_the_format(exported, monkeypatch, board):
    """359 digits are the fifth of each class that validates."""
    monkeypatch.setattr(verify_export, "measure", board())

    record = verify_network(exported, LOCAL, settings=SETTINGS).record.to_json()

    assert record["verdict"] == "met"
    (budget,) = record["budgets"]
    assert (budget["metric"], budget["target"], budget["verdict"]) == ("latency_ms", 0.5, "met")
    assert budget["value"] == record["measured"]["median"]["latency_ms"] == pytest.approx(0.4, rel=0.01)
    assert record["comparison"] is None  # nothing was predicted
    assert record["accuracy"]["images"] == record["outputs"]["images"] == 359
    assert record["warnings"] == []


def test_the_predictor_of_the_run_says_what_was_predicted(exported, monkeypatch, board):
    import luts

    space = Space.from_json(json.loads((exported / "run.json").read_text())["space"])
    lut_predictor(space, luts.read(exported / "lut.jsonl")).save(exported / "predictor.json")
    run_folders.find(Run.open(exported), Run.open(exported).architecture)
    monkeypatch.setattr(verify_export, "measure", board())

    found = verify_network(exported, LOCAL, images=40)

    comparison = found.record.comparison
    predicted, corrected = comparison.predicted, comparison.corrected
    assert predicted.interval_ms[0] < predicted.latency_ms < predicted.interval_ms[1]
    assert comparison.gap == pytest.approx(corrected.latency_ms / predicted.latency_ms - 1)
    assert comparison.drift.ratio == pytest.approx(1.0, abs=0.01)
    (budget,) = found.record.budgets
    assert (budget.predicted, budget.predicted_interval) == (predicted.latency_ms, predicted.interval_ms)
    assert f"predicted {predicted.latency_ms:.3f}" in found.line


@pytest.fixture
def predicted(exported):
    """The run has a predictor: the sum of its table."""
    import luts

    space = Space.from_json(json.loads((exported / "run.json").read_text())["space"])
    lut_predictor(space, luts.read(exported / "lut.jsonl")).save(exported / "predictor.json")
    run_folders.find(Run.open(exported), Run.open(exported).architecture)
    return exported


def test_a_slower_session_is_corrected_for_the_comparison_and_not_for_the_verdict(predicted, monkeypatch, board):
    """All takes 5 % longer: 0.42 is 0.40 in the reference session. The budget of 0.41 is about the machine as it is."""
    monkeypatch.setattr(verify_export, "measure", board(network_ms=0.42, operator_ms=0.105))

    record = verify_network(predicted, LOCAL, targets={"latency_ms": 0.41}, settings=SETTINGS, images=40).record

    assert record.comparison.drift.ratio == pytest.approx(1.05, abs=0.01)
    assert record.comparison.corrected.latency_ms == pytest.approx(0.4, rel=0.01)
    assert record.verdict == "missed"


def test_a_network_of_another_day_differs_by_more_than_its_rounds_say(predicted, monkeypatch, board):
    monkeypatch.setattr(verify_export, "measure", board())

    comparison = verify_network(predicted, LOCAL, settings=SETTINGS, images=40).record.comparison

    assert comparison.day_deviation > 0
    low, high = comparison.corrected.interval_ms
    assert (high - low) / 2 > comparison.day_deviation * comparison.corrected.latency_ms


def test_another_board_than_the_tables_has_no_drift(predicted, monkeypatch, board):
    monkeypatch.setattr(verify_export, "measure", board(fingerprint={"board": "another"}))

    record = verify_network(predicted, LOCAL, settings=SETTINGS, images=40).record

    assert record.comparison.drift is None
    assert record.comparison.corrected is None
    assert any("'invented' and 'another'" in warning for warning in record.warnings)


def test_a_machine_in_another_state_is_named_and_does_not_change_the_verdict(predicted, monkeypatch, board):
    monkeypatch.setattr(verify_export, "measure", board(network_ms=0.48, operator_ms=0.12))

    record = verify_network(predicted, LOCAL, settings=SETTINGS, images=40).record

    assert record.verdict == "met"
    assert any("20.0 % slower than in the reference session" in warning for warning in record.warnings)


def test_an_engine_that_computes_something_else_keeps_no_budget(exported, monkeypatch, board):
    monkeypatch.setattr(verify_export, "measure", board(wrong=True))

    found = verify_network(exported, LOCAL, settings=SETTINGS, images=40)

    assert found.record.verdict == "inconclusive"
    assert "does not compute what the reference does" in found.line


def test_a_network_that_the_board_cannot_run_is_an_error_with_the_boards_own_words(exported, monkeypatch, board):
    monkeypatch.setattr(verify_export, "measure", board(fails="no kernel for Conv"))

    with pytest.raises(VerifyError, match="no kernel for Conv") as caught:
        verify_network(exported, LOCAL, settings=SETTINGS, images=40)

    assert caught.value.hint == "use another"
    assert not (exported / "verify" / "verification.json").exists()


def test_a_file_that_was_changed_after_the_export_is_refused(exported):
    with (exported / "export" / "model.onnx").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(StaleRecordError, match="it has changed since"):
        verify_network(exported, LOCAL, settings=SETTINGS, images=40)


def test_another_batch_than_the_predictors_is_refused(exported):
    with pytest.raises(VerifyError, match="is for batch 1, the predictor for batch 4"):
        verify_network(exported, LOCAL, settings=Settings(batch=4))


def test_without_an_export_the_message_says_how_to_get_one(run_folder):
    with pytest.raises(RunError) as caught:
        verify_network(run_folder, LOCAL, settings=SETTINGS)

    assert "lightnas-edge export" in caught.value.hint


def test_settings_follow_the_fingerprint_of_the_run(tmp_path):
    fingerprint = {"backend": "tensorrt", "precision": "fp16", "batch": 8}
    run = run_folders.begin(tmp_path / "run", SPACE, fingerprint=fingerprint)
    run_folders.find(run, Architecture.from_names(SPACE, FOUND))

    settings = run_settings(run, rounds=7)

    assert (settings.backend, settings.precision, settings.batch, settings.threads) == ("tensorrt", "fp16", 8, 1)
    assert settings.protocol.rounds == 7


def test_every_budget_of_the_search_is_judged_or_said_not_to_be(tmp_path, digits, monkeypatch, board):
    targets = {"energy_mj": 40.0, "params_m": 1.0}
    run = run_folders.begin(tmp_path / "run", SPACE, digits.record, targets=targets, fingerprint=FINGERPRINT)
    write_table(run.folder / "lut.jsonl", [shaped.key for shaped in SPACE.shaped_operators()], 0.1)
    run_folders.train(run_folders.find(run, Architecture.from_names(SPACE, FOUND)), network())
    export_network(run)
    monkeypatch.setattr(verify_export, "measure", board())

    found = verify_network(run, LOCAL, settings=SETTINGS, targets={"latency_ms": 0.5, "accuracy": 0.999}, images=40)

    verdicts = {budget.metric: budget.verdict for budget in found.record.budgets}
    assert verdicts == {"energy_mj": "not judged", "params_m": "met", "latency_ms": "met", "accuracy": "missed"}
    assert found.record.verdict == "missed"


def test_a_statistic_gets_as_many_rounds_as_it_needs(tmp_path):
    run = run_folders.begin(tmp_path / "run", SPACE, fingerprint=FINGERPRINT)
    run_folders.find(run, Architecture.from_names(SPACE, FOUND))

    median, tail, energy = (
        run_settings(run, targets)
        for targets in ({"latency_ms": 0.5}, {"latency_ms": 0.5, "p95_ms": 0.6}, {"latency_ms": 0.5, "energy_mj": 9.0})
    )

    assert median.protocol.rounds == 40
    assert 73 <= tail.protocol.rounds < 100
    assert (median.energy_rounds, energy.energy_rounds) == (0, 3)


def test_a_second_verification_measures_again(exported, monkeypatch, board):
    fresh = []

    def measure(*arguments, **named):
        fresh.append(named.pop("fresh"))
        return board()(*arguments, **named)

    monkeypatch.setattr(verify_export, "measure", measure)
    verify_network(exported, LOCAL, settings=SETTINGS, images=40)
    verify_network(exported, LOCAL, settings=SETTINGS, images=40)

    assert fresh == [True, True]


def test_an_interrupted_verification_is_resumed(exported, monkeypatch, board):
    def interrupted(connection, job, table, **named):
        table.parent.mkdir(exist_ok=True)
        table.write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_export, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify_network(exported, LOCAL, settings=SETTINGS, images=40)
    fresh = []

    def measure(*arguments, **named):
        fresh.append(named.pop("fresh"))
        return board()(*arguments, **named)

    monkeypatch.setattr(verify_export, "measure", measure)
    verify_network(exported, LOCAL, settings=SETTINGS, images=40)

    assert fresh == [False]


def test_a_verification_that_cannot_start_keeps_the_one_before(exported, monkeypatch, board):
    monkeypatch.setattr(verify_export, "measure", board())
    verify_network(exported, LOCAL, settings=SETTINGS, images=40)
    before = {path.name: path.read_bytes() for path in (exported / "verify").iterdir()}

    def refuses(*arguments, **named):
        raise devices.DeviceError("no jetson_clocks")

    monkeypatch.setattr(verify_export, "measure", refuses)
    with pytest.raises(devices.DeviceError):
        verify_network(exported, LOCAL, settings=SETTINGS, images=40)

    assert {path.name: path.read_bytes() for path in (exported / "verify").iterdir()} == before
    assert Run.open(exported).verification.verdict == "met"


def test_an_export_that_is_older_than_the_weights_is_named_with_its_remedy(exported):
    network_ = network()
    network_.state_dict()["head.classifier.bias"].add_(1.0)
    run_folders.train(Run.open(exported), network_)

    with pytest.raises(StaleRecordError, match="is older than the weights") as caught:
        verify_network(exported, LOCAL, settings=SETTINGS, images=40)

    assert caught.value.hint == f"`lightnas-edge export {exported}` writes it"


def test_other_images_than_those_of_the_training_are_refused(exported, tmp_path):
    for part in ("train", "val"):
        for name in range(10):
            folder = tmp_path / "other" / part / str(name)
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 16), (name, 0, 0)).save(folder / "a.png")

    with pytest.raises(DataError, match="holds other images than the training"):
        verify_network(exported, LOCAL, settings=SETTINGS, data=tmp_path / "other")


def test_the_board_of_the_table_is_the_default(tmp_path):
    def host(fingerprint, **more):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return default_host(run_folders.begin(folder, SPACE, fingerprint=fingerprint, **more))

    assert host({"board": "generic-linux"}, host="localhost") == "localhost"
    assert host({"board": "jetson-nano"}, host="bench") == "bench"
    assert host({"board": "virtual:jetson-nano", "simulated": True}) == "virtual:jetson-nano"
    with pytest.raises(VerifyError, match="measured on jetson-nano") as caught:
        host({"board": "jetson-nano"})
    assert "--host HOST" in caught.value.hint
    with pytest.raises(VerifyError, match="measured on generic-linux") as caught:  # any machine
        host({"board": "generic-linux"})
    assert "--host localhost` if it is this machine" in caught.value.hint


def test_an_unstable_verification_advises_to_verify_again(exported, monkeypatch, board):
    def measure(connection, job, table, **named):
        found = board()(connection, job, table, **named)
        few = [visit for visit in found.visits if visit.round < 2]
        return dataclasses.replace(found, visits=tuple(few))

    monkeypatch.setattr(verify_export, "measure", measure)

    record = verify_network(exported, LOCAL, settings=SETTINGS, images=40).record

    assert any(
        f"`lightnas-edge verify {exported} --host localhost --rounds 15`" in warning for warning in record.warnings
    )


def test_a_file_that_the_engine_has_no_kernels_for_is_refused_before_the_board_is_asked(tmp_path, digits, monkeypatch):
    """The table was measured in TensorRT, so the export is in fp16. ONNX Runtime's CPU has no such kernels."""
    run = run_folders.begin(tmp_path / "run", SPACE, digits.record, fingerprint={**FINGERPRINT, "precision": "fp16"})
    run_folders.train(run_folders.find(run, Architecture.from_names(SPACE, FOUND)), network())
    export_network(run)
    monkeypatch.setattr(verify_export, "measure", None)

    with pytest.raises(VerifyError, match=r"the exported file is in fp16; .* a CPU has no fp16 kernels") as caught:
        verify_network(run, LOCAL, settings=SETTINGS)
    assert f"`lightnas-edge export {run.folder} --precision" in caught.value.hint
