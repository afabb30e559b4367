"""Files of trtexec: read by content, combined into one record, refused in one message each."""

import json
import random
from pathlib import Path

import pytest

from lightnas_edge.errors import RecordError
from lightnas_edge.profiles import import_trtexec
from lightnas_edge.profiles.names import is_dla, is_reformat, nodes
from tests.mutations import mutated_bytes, mutated_json

DATA = Path(__file__).parent / "data"
PROFILE, GRAPH, TIMES, METADATA = (DATA / f"resnet18.{kind}.json" for kind in ("profile", "graph", "times", "metadata"))
LOG = DATA / "efficientdet-lite3_fp16.log"


def kinds(record):
    return [finding.kind for finding in record.findings]


@pytest.fixture
def recorded(shared_data):
    folder = shared_data / "trt_profiles"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def test_the_files_of_one_engine_become_one_record():
    record = import_trtexec([PROFILE, GRAPH, TIMES, METADATA])

    first, conv = record.layers[:2]
    assert (record.name, record.layer_runs, len(record.layers)) == ("resnet18", 21071, 9)
    assert (conv.median_ms, conv.mean_ms, conv.precision, conv.groups) == (0.028672, 0.0288488, "fp16", 1)
    assert conv.onnx_nodes == ("/conv1/Conv", "/relu/Relu")
    assert conv.outputs[0].shape == (1, 64, 112, 112)
    assert first.is_reformat and not conv.is_reformat
    assert sum(layer.share for layer in record.layers) == pytest.approx(1)
    assert record.reported["gpu"].median_ms == 0.276855  # of the summary: the times were cut
    assert record.throughput_per_s == 3580.05
    assert record.fingerprint["device"] == "NVIDIA GeForce RTX 3060 Laptop GPU"


def test_a_layer_of_myelin_gets_its_nodes_from_the_metadata():
    layer = import_trtexec([PROFILE, GRAPH]).layers[-1]

    assert layer.name.startswith("__myl")
    assert layer.onnx_nodes == ("/fc/Gemm",)


def test_times_of_single_inferences_are_summarised(tmp_path):
    rows = [{"startEnqMs": 0, "endEnqMs": 0.5, "inMs": 0.1, "computeMs": value, "outMs": 0.1, "latencyMs": value + 0.2}
            for value in (1.0, 2.0, 3.0)]  # fmt: skip
    path = tmp_path / "times.json"
    path.write_text(json.dumps(rows))

    found = import_trtexec([path]).reported

    assert found["gpu"].median_ms == 2.0
    assert found["gpu"].variation == pytest.approx((2 / 3) ** 0.5 / 2)
    assert (found["enqueue"].median_ms, found["h2d"].median_ms, found["gpu"].n) == (0.5, 0.1, 3)


def test_the_console_of_a_launch_bound_engine_says_so():
    record = import_trtexec([LOG])

    assert record.fingerprint["tensorrt"] == "8.0.1"
    assert (record.precision, record.build_s, record.throughput_per_s) == ("fp16", 1303.79, 5.32721)
    assert record.reported["latency"].p99_ms == 189.414
    assert record.reported["latency"].p95_ms is None
    assert [tensor.name for tensor in record.inputs] == ["images:0"]
    assert len(record.layers) == 6
    assert record.layers_sum_ms is None
    (finding,) = record.findings
    assert finding.kind == "launch-bound"
    assert "187.1 ms" in finding.text and "80%" in finding.text
    assert "--useCudaGraph" in finding.remedy


def test_build_and_run_of_version_10_are_combined(recorded):
    record = import_trtexec(sorted((recorded / "trtexec_logs_orin_nano").glob("*.log")))

    assert record.fingerprint["tensorrt"] == "10.3.0"
    assert (record.build_s, record.engine_mib) == (38.0235, 22.6735)
    assert record.reported["gpu"].median_ms == 0.87793  # of the run, as its author parsed it
    assert record.reported["latency"].p95_ms == 0.932251
    assert record.precision == "fp16"
    assert record.findings == ()  # 0.53 ms of 0.88 ms is below the threshold, and the run was steady


def test_unstable_gpu_time_is_a_finding(recorded):
    (build,) = (recorded / "trtexec_logs_orin_nano").glob("*build*.log")

    (finding,) = import_trtexec([build]).findings

    assert finding.kind == "unstable"
    assert "4.7%" in finding.text


def test_every_recorded_file_can_be_imported(recorded):
    paths = [path for path in recorded.rglob("*") if path.suffix in (".json", ".log") and "summary" not in path.name]
    assert len(paths) == 40

    for path in paths:
        record = import_trtexec([path])
        assert record.layers or record.reported, path


def test_waiting_for_a_dla_is_no_reformat(recorded):
    record = import_trtexec([recorded / "exportProfile_agx" / "googlenet_gpu_transition_at_53.profile.json"])

    (wait,) = [layer for layer in record.layers if layer.share > 0.5]
    assert (wait.type, wait.is_reformat) == ("wait for DLA", None)
    assert kinds(record) == ["dla-transitions", "top-layers"]
    assert "1 part on the DLA; the work changes 2 times" in record.findings[0].text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1 + relu1", ("conv1", "relu1")),
        ("a/1x1 + a/relu || b/3x3", ("a/1x1", "a/relu", "b/3x3")),
        ("pool input reformatter 0", ("pool",)),
        ("Reformatting CopyNode for Output Tensor 1 to conv1", ("conv1",)),
        ("{conv1,relu1} output reformatter 0", ("conv1", "relu1")),
        ("{ForeignNode[fc.weight...(Unnamed Layer* 58) [ElementWise]]}", ("fc.weight",)),
        ("[CONVOLUTION]-[aten_ops.convolution.default]-[/conv1/convolution]", ("/conv1/convolution",)),
        ("data to nvm", ()),
        ("__myl_MulSumAdd_myl24_1", ()),
    ],
)
def test_nodes_are_read_from_the_name_of_a_layer(name, expected):
    assert nodes(name) == expected


def test_a_part_on_the_dla_differs_from_a_part_that_myelin_compiled():
    assert is_dla("{conv1,relu1}")
    assert not is_dla("{ForeignNode[conv1...relu1]}")
    assert not is_dla("{conv1,relu1} output reformatter 0")
    assert is_reformat("{conv1,relu1} output reformatter 0")


def test_a_failed_run_says_what_failed(tmp_path):
    path = tmp_path / "failed.log"
    path.write_text(
        "&&&& RUNNING TensorRT.trtexec [TensorRT v8503] # trtexec --onnx=net.onnx\n"
        "[01/18/2022-18:44:25] [E] Error[10]: [optimizer.cpp::computeCosts::3728] Could not find any implementation for node conv1.\n"
        "[01/18/2022-18:44:25] [E] Engine set up failed\n"
        "&&&& FAILED TensorRT.trtexec [TensorRT v8503] # trtexec --onnx=net.onnx\n"
    )

    with pytest.raises(RecordError, match=r"failed: .*implementation for node conv1") as caught:
        import_trtexec([path])

    assert "--memPoolSize" in caught.value.hint


def test_an_operator_that_is_not_supported_gets_a_command_with_the_name_of_the_model(tmp_path):
    path = tmp_path / "run.log"
    lines = [
        "&&&& RUNNING TensorRT.trtexec [TensorRT v8001] # trtexec --onnx=net.onnx --fp16",
        "[11/17/2021-22:11:24] [E] No importer registered for op: Mystery",
        "&&&& FAILED TensorRT.trtexec [TensorRT v8001] # trtexec --onnx=net.onnx --fp16",
    ]
    path.write_text("\n".join(lines))

    with pytest.raises(RecordError, match="No importer registered for op: Mystery") as caught:
        import_trtexec([path])
    assert "`profile-device --model net.onnx` names the operators" in caught.value.hint


def test_an_interrupted_run_says_where_it_ends(tmp_path):
    text = LOG.read_text()
    path = tmp_path / "cut.log"
    path.write_text(text[: text.index("[TRT]")])

    with pytest.raises(RecordError, match="ends before the performance summary"):
        import_trtexec([path])


def test_all_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "b.json").write_text(PROFILE.read_text()[:200])

    with pytest.raises(RecordError) as caught:
        import_trtexec([tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json", PROFILE])

    message = str(caught.value)
    assert "a.json is no file of trtexec: an object with x" in message
    assert "b.json is not valid JSON" in message
    assert "c.json does not exist" in message


def test_files_of_different_engines_are_refused(tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"Layers": ["conv7", "conv8"]}))

    with pytest.raises(RecordError, match="different engines: no layer has the same name"):
        import_trtexec([PROFILE, other])
    with pytest.raises(RecordError, match="both hold layer info"):
        import_trtexec([GRAPH, other])


@pytest.mark.parametrize("path", [PROFILE, GRAPH, TIMES, METADATA, LOG], ids=lambda path: path.name)
def test_a_damaged_file_is_read_or_refused(path, tmp_path):
    damaged = tmp_path / path.name
    refused = 0
    for seed in range(150):
        generator = random.Random(seed)
        content = path.read_bytes()
        is_json = path.suffix == ".json"
        damaged.write_bytes(
            mutated_json(json.loads(content), generator) if is_json else mutated_bytes(content, generator)
        )
        for files in ([damaged], [damaged, GRAPH if path == PROFILE else PROFILE]):
            try:
                record = import_trtexec(files)
            except RecordError:
                refused += 1
            else:
                assert type(record).parse(json.dumps(record.to_json()), "again") == record
    assert refused < 300


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("PWN(PWN(/model.0/act/Sigmoid), /model.0/act/Mul)", ("/model.0/act/Sigmoid", "/model.0/act/Mul")),
        ("/conv/Conv + PWN(PWN(/act/Sigmoid), PWN(/act/Mul))", ("/conv/Conv", "/act/Sigmoid", "/act/Mul")),
        ("PWN(/act/Relu)", ("/act/Relu",)),
        ("/act/Mul (scaled)", ("/act/Mul (scaled)",)),
    ],
)
def test_pointwise_operations_of_one_kernel_are_named_one_by_one(name, found):
    """Every SiLU of TensorRT is such a kernel."""
    assert nodes(name) == found
