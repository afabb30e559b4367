"""The precision table: every precision of the board, exported, measured in turns, judged, and one chosen."""

import json

import pytest

import devices
import luts
from devices import AgentFailedError, BoardUnreachableError
from lightnas_edge.deploy import export_network, turns, verify_export, verify_network
from lightnas_edge.deploy import precision as precision_module
from lightnas_edge.deploy.precision import measure_precisions
from lightnas_edge.deploy.turns import take_turns
from lightnas_edge.errors import CalibrationError, VerifyError
from lightnas_edge.graph import Arithmetic
from lightnas_edge.measuring import MeasurementProtocol, Settings
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.report import build_report
from lightnas_edge.runs import Run
from tests import run_folders
from tests.deploy.conftest import FINGERPRINT, SPACE, network, write_table

PROTOCOL = MeasurementProtocol(rounds=12, min_sample_ms=0.5, warmup_ms=1.0)
SETTINGS = Settings(protocol=PROTOCOL)
LOOSE = {"latency_ms": 1000.0}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))


@pytest.mark.timeout(240)
def test_fp32_and_int8_on_this_machine(run_folder):
    """The real agent and ONNX Runtime's own int8 kernels: the latencies depend on the machine, the rest does not."""
    found = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=100, calibration=100
    )

    record = found.record
    assert record.to_json() == json.loads(found.path.read_text())
    by_name = {row.precision: row for row in record.rows}
    assert list(by_name) == ["fp32", "fp16", "int8"]
    assert "a CPU has no fp16 kernels" in by_name["fp16"].unavailable
    floats, eight = by_name["fp32"], by_name["int8"]
    assert {row.verification.verdict for row in (floats, eight)} == {"met"}
    assert eight.verification.precision == "int8"
    assert eight.verification.fingerprint["precision"] == "int8"
    assert eight.verification.reference == "the same int8 file in ONNX Runtime on this machine, node by node"
    assert eight.verification.outputs.cosine > 0.99  # the kernels compute what the file says
    assert eight.verification.float_outputs.cosine < eight.verification.outputs.cosine  # rounding costs something
    assert floats.verification.ran_in == {"fp32": 15}
    assert eight.verification.ran_in == {"int8": 13, "fp32": 2}  # squeeze-and-excitation stays in float
    assert eight.model_sha256 == eight.verification.model_sha256 != floats.model_sha256
    assert eight.accuracy_difference.images == eight.verification.accuracy.images == 100
    assert eight.accuracy_difference.difference == pytest.approx(-eight.verification.accuracy.drop)
    assert eight.speedup.ratio > 0
    assert eight.speedup.interval is not None  # of four passes
    assert record.choice.precision in ("fp32", "int8")
    run = Run.open(run_folder)
    assert run.precision == record
    for name in ("fp32", "int8"):
        files = {path.name for path in (run.precision_folder / name).iterdir()}
        assert {"model.onnx", "export.json", "journal.jsonl"} <= files
        assert not any(each.startswith("unfinished") for each in files)
    assert (run.precision_folder / "int8" / "calibration.json").exists()


@pytest.mark.timeout(240)
def test_a_virtual_board_has_what_its_real_one_has_and_marks_everything_as_simulated(tmp_path, digits):
    """An AGX Xavier has all three. The accuracy is that of the rounded graphs."""
    run = trained(tmp_path / "run", digits, {"backend": "simulated", "board": "virtual:jetson-agx-xavier"})

    found = measure_precisions(
        run, devices.connect("virtual:jetson-agx-xavier"), targets=LOOSE, images=60, calibration=100,
        settings=Settings(backend="simulated", protocol=PROTOCOL),
    )  # fmt: skip

    record = found.record
    assert record.simulated
    assert [row.unavailable for row in record.rows] == [None, None, None]
    assert all(row.verification.simulated for row in record.rows)
    cosines = {
        row.precision: (row.verification.float_outputs or row.verification.outputs).cosine for row in record.rows
    }
    assert cosines["int8"] < cosines["fp16"] < cosines["fp32"]
    assert record.rows[1].speedup.interval[0] > 1  # invented: twice the arithmetic


def test_a_board_without_int8_is_not_asked_for_it(tmp_path, digits):
    run = trained(tmp_path / "run", digits, {"backend": "simulated", "board": "virtual:jetson-nano"})

    with pytest.raises(VerifyError, match="no precision could be measured on virtual:jetson-nano") as caught:
        measure_precisions(
            run, devices.connect("virtual:jetson-nano"), targets=LOOSE, precisions=["int8"],
            settings=Settings(backend="simulated", protocol=PROTOCOL),
        )  # fmt: skip

    assert "int8: Jetson Nano computes in fp32 and fp16, not in int8" in str(caught.value)


def trained(folder, digits, fingerprint):
    run = run_folders.begin(folder, SPACE, digits.record, fingerprint={**FINGERPRINT, **fingerprint})
    from lightnas_edge.space import Architecture
    from tests.deploy.conftest import FOUND

    return run_folders.train(run_folders.find(run, Architecture.from_names(SPACE, FOUND)), network())


# -- turns ------------------------------------------------------------------------------------------------------


@pytest.fixture
def board_in_turns(board, monkeypatch):
    """Stands in for `measure`, in every precision; notes what each call measures."""
    calls = []

    def install(ms=None, fails=()):
        def measure(connection, job, table, **named):
            manifest = json.loads((job.folder / "manifest.json").read_text())
            name = manifest["precision"]
            calls.append((name, manifest["protocol"]["rounds"], len(manifest["evaluations"])))
            own = {**FINGERPRINT, "precision": name}
            before = table.read_bytes().count(b"net-") if table.exists() else 0  # rounds in this side's journal
            rounds = max(before, manifest["protocol"]["rounds"])
            fault = "no kernel" if name in fails else ""
            act = board((ms or {}).get(name, 0.4), fails=fault, fingerprint=own, rounds=rounds)
            return act(connection, job, table, **named)

        monkeypatch.setattr("lightnas_edge.deploy.turns.measure", measure)
        return calls

    return install


def test_precisions_take_turns_and_the_order_is_reversed_in_every_second_pass(run_folder, board_in_turns):
    calls = board_in_turns()

    measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    )

    assert [(name, rounds) for name, rounds, _ in calls] == [
        ("fp32", 3), ("int8", 3), ("int8", 6), ("fp32", 6), ("fp32", 9), ("int8", 9), ("int8", 12), ("fp32", 12),
    ]  # fmt: skip
    assert [evaluations for _, _, evaluations in calls] == [1, 1, 0, 0, 0, 0, 0, 0]  # outputs are computed once


def test_a_precision_that_the_board_cannot_run_leaves_the_others(run_folder, board_in_turns):
    calls = board_in_turns(fails=("int8",))

    record = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    ).record

    int8 = record.rows[2]
    assert int8.unavailable == "localhost could not measure it: no kernel"
    assert int8.remedy == "use another"
    assert record.choice.precision == "fp32"
    assert [name for name, *_ in calls].count("int8") == 1  # no further pass


@pytest.mark.timeout(240)
def test_a_precision_that_the_agent_refuses_leaves_the_others(run_folder, monkeypatch):
    """The real agent is sent the fp16 file, which is otherwise known to be impossible before anything is sent."""
    monkeypatch.setattr(precision_module, "unavailable_precisions", lambda connection, backend: {})

    record = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, precisions=["fp32", "fp16"], images=40, passes=2,
        settings=Settings(protocol=PROTOCOL.model_copy(update={"rounds": 2})),
    ).record  # fmt: skip

    floats, half = record.rows
    assert floats.verification is not None
    assert half.verification is None
    assert half.unavailable == "the backend onnxruntime computes in fp32 or int8, not in fp16"


@pytest.mark.parametrize(("error", "calls_before"), [(AgentFailedError, 2), (BoardUnreachableError, 0)])
def test_a_board_that_is_lost_and_an_agent_that_fails_later_end_the_table(
    run_folder, board_in_turns, monkeypatch, error, calls_before
):
    calls = board_in_turns()
    complete = turns.measure

    def measure(*positional, **named):
        if len(calls) == calls_before:
            raise error("it went wrong")
        return complete(*positional, **named)

    monkeypatch.setattr(turns, "measure", measure)

    with pytest.raises(error, match="it went wrong"):
        measure_precisions(
            run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
        )


def test_a_precision_that_cannot_be_exported_leaves_the_others(run_folder, board_in_turns, monkeypatch):
    board_in_turns()
    build = precision_module.build_export

    def refuses(run, *, precision, **named):
        if precision == "int8":
            raise CalibrationError("a range is not finite", hint="train again")
        return build(run, precision=precision, **named)

    monkeypatch.setattr(precision_module, "build_export", refuses)

    record = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    ).record

    assert record.rows[2].unavailable == "it cannot be exported: a range is not finite"
    assert record.rows[2].remedy == "train again"


def test_int8_that_is_twice_as_fast_is_chosen(run_folder, board_in_turns):
    board_in_turns({"fp32": 0.4, "int8": 0.2})

    record = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    ).record

    assert record.rows[2].speedup.ratio == pytest.approx(2.0, rel=0.01)
    assert record.choice.precision == "int8"


def test_a_pass_without_a_visit_is_left_out_of_the_speed(run_folder, board_in_turns, monkeypatch):
    """int8 has no visit in the second of three passes: two ratios are too few for an interval."""
    board_in_turns({"fp32": 0.4, "int8": 0.2})
    complete = turns.measure

    def measure(connection, job, table, **named):
        complete(connection, job, table, **named)
        if json.loads((job.folder / "manifest.json").read_text())["precision"] == "int8":
            lines = table.read_bytes().splitlines(keepends=True)
            table.write_bytes(b"".join(line for line in lines if not in_the_second_pass(json.loads(line))))
        return luts.read(table)

    monkeypatch.setattr(turns, "measure", measure)

    record = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100, passes=3
    ).record

    assert record.rows[2].speedup.ratio == pytest.approx(2.0, rel=0.01)
    assert record.rows[2].speedup.interval is None


def in_the_second_pass(line):
    """Of three passes of four rounds, and of the network."""
    return line["kind"] == "visit" and line["key"].startswith("net-") and 4 <= line["round"] < 8


def test_an_interrupted_table_keeps_its_journals_and_is_resumed(run_folder, board_in_turns, monkeypatch):
    board_in_turns()
    monkeypatch.setattr(precision_module, "take_turns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_precisions(
            run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
        )
    folder = Run.open(run_folder).precision_folder
    assert len(list(folder.glob("*/unfinished-*.jsonl"))) == 2
    assert not (folder / "precision.json").exists()
    monkeypatch.setattr(precision_module, "take_turns", take_turns)
    calls = board_in_turns()
    calls.clear()

    measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    )

    # The journals hold all rounds: only the first pass, for the outputs, and the last one ask the board.
    assert [(name, rounds) for name, rounds, _ in calls] == [("fp32", 3), ("int8", 3), ("int8", 12), ("fp32", 12)]


def interrupted(turns, connection, passes, on_progress, sudo_password):
    take_turns(turns, connection, passes, on_progress, sudo_password)
    raise KeyboardInterrupt


# -- predictions ------------------------------------------------------------------------------------------------


def test_each_predictor_speaks_of_its_own_precision(run_folder, board_in_turns, tmp_path):
    board_in_turns()
    run = Run.open(run_folder)
    lut_predictor(run.space, luts.read(run_folder / "lut.jsonl")).save(run_folder / "predictor.json")
    run_folders.find(run, run.architecture)
    keys = [shaped.key for shaped in SPACE.shaped_operators()]
    table = write_table(tmp_path / "int8.lut.jsonl", keys, 0.05, fingerprint={**FINGERPRINT, "precision": "int8"})
    lut_predictor(run.space, table).save(tmp_path / "int8.predictor.json")

    rows = measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100,
        predictors=[tmp_path / "int8.predictor.json"],
    ).record.rows  # fmt: skip

    floats, _, eight = rows
    assert floats.predicted["latency_ms"].latency_ms == pytest.approx(2 * eight.predicted["latency_ms"].latency_ms)
    assert floats.verification.comparison is not None
    assert floats.verification.comparison.drift is not None
    assert eight.verification.comparison.drift is None  # the run's table is of fp32


@pytest.mark.parametrize(
    ("field", "theirs", "named"),
    [
        ("backend", "tensorrt", "backend 'tensorrt', not 'onnxruntime'"),
        ("provider", "CUDAExecutionProvider", "provider 'CUDAExecutionProvider', not 'CPUExecutionProvider'"),
        ("batch", 8, "batch 8, not 1"),
        ("threads", 4, "threads 4, not 1"),
        ("cuda_graph", True, "cuda_graph True, not False"),
        ("board", "other", "board 'other', not 'invented'"),
    ],
)
def test_a_prediction_of_another_engine_is_not_used_and_the_differing_field_is_named(
    run_folder, tmp_path, field, theirs, named
):
    run = Run.open(run_folder)
    measured = {**FINGERPRINT, "provider": "CPUExecutionProvider", "cuda_graph": False}
    keys = [shaped.key for shaped in SPACE.shaped_operators()]
    other = write_table(tmp_path / "other.lut.jsonl", keys, 0.1, fingerprint={**measured, field: theirs})
    same = write_table(tmp_path / "same.lut.jsonl", keys, 0.2, fingerprint={"board": "invented", "batch": 1})
    own, of_other = lut_predictor(run.space, same), lut_predictor(run.space, other)

    found = verify_export.predictions(
        run, {tmp_path / "own.json": own, tmp_path / "other.json": of_other}, Arithmetic("fp32"), measured=measured
    )

    assert found.files == {"latency_ms": tmp_path / "own.json"}  # a field that it does not name does not differ
    assert found.unused == (f"other.json ({named})",)


def test_an_int8_export_is_verified_without_the_prediction_of_the_fp32_table(run_folder, board, monkeypatch):
    run = Run.open(run_folder)
    lut_predictor(run.space, luts.read(run_folder / "lut.jsonl")).save(run_folder / "predictor.json")
    run_folders.find(run, run.architecture)
    export_network(run_folder, precision="int8", calibration=100)
    monkeypatch.setattr(verify_export, "measure", board(fingerprint={**FINGERPRINT, "precision": "int8"}))

    record = verify_network(run_folder, devices.connect("localhost"), settings=SETTINGS, images=40).record

    assert (record.precision, record.comparison, record.table_sha256) == ("int8", None, None)
    (budget,) = record.budgets
    assert budget.predicted is None
    assert any("there is no prediction in int8 ort: predictor.json (fp32)" in text for text in record.warnings)
    assert not any("drift" in text for text in record.warnings)


def test_the_accuracy_that_is_lost_is_that_against_pytorch_in_float32(run_folder, board, monkeypatch):
    """The engine returns classes in reverse: nothing of its outputs agrees, and the loss is against PyTorch's answers."""
    export_network(run_folder, precision="int8", calibration=100)
    monkeypatch.setattr(verify_export, "measure", board(wrong=True, fingerprint={**FINGERPRINT, "precision": "int8"}))

    record = verify_network(
        run_folder, devices.connect("localhost"), settings=SETTINGS, targets={"accuracy_drop": 0.01}, images=100
    ).record

    assert record.accuracy_reference == "PyTorch in float32"
    assert record.accuracy.drop == pytest.approx(record.accuracy.reference_top1 - record.accuracy.top1)
    assert record.verdict == "inconclusive"
    assert "does not compute what the reference does" in record.reason


def test_an_int8_file_for_tensorrt_is_refused_by_onnx_runtime_before_anything_is_measured(run_folder, monkeypatch):
    export_network(run_folder, precision="int8", dialect="tensorrt", calibration=100)
    monkeypatch.setattr(verify_export, "measure", None)

    with pytest.raises(VerifyError, match="is int8 tensorrt, and onnxruntime takes int8 ort") as caught:
        verify_network(run_folder, devices.connect("localhost"), settings=SETTINGS)

    assert f"`lightnas-edge export {run_folder} --precision int8 --target onnxruntime`" in caught.value.hint


# -- the report -------------------------------------------------------------------------------------------------


def test_the_report_of_the_run_shows_the_table(run_folder, board_in_turns):
    board_in_turns({"fp32": 0.4, "int8": 0.2})
    measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    )

    report = build_report(run_folder)

    page = report.html.read_text()
    assert '<section id="precision">' in page
    assert "Deploy int8." in page
    assert "2.00× fp32" in page
    assert "not available: the backend onnxruntime measures fp32 and int8, not fp16" in page
    assert "**Deploy int8**" in report.markdown.read_text()
    assert json.loads(report.json.read_text())["precision"]["choice"]["precision"] == "int8"


def test_a_table_of_other_weights_is_stale(run_folder, board_in_turns):
    board_in_turns()
    measure_precisions(
        run_folder, devices.connect("localhost"), targets=LOOSE, settings=SETTINGS, images=40, calibration=100
    )
    other = network()
    other.state_dict()["head.classifier.bias"].add_(1.0)
    run_folders.train(Run.open(run_folder), other)

    report = build_report(run_folder)

    assert "is about other weights" in report.missing["precision"]
    assert '<section id="precision">' not in report.html.read_text()
