"""The backend's logic, on a stand-in with the surface of each version. No number here is a measurement."""

import hashlib
import json
import os
import stat
import time
import types

import numpy as np
import onnx
import pytest

from profiler.backends import Conditions, onnx_file
from profiler.backends.tensorrt import TensorRT, cache, network, values
from profiler.backends.tensorrt import __main__ as command
from profiler.backends.tensorrt import engine as engine_module
from profiler.backends.tensorrt.builder import WORKSPACE_BYTES
from profiler.backends.tensorrt.failures import failure
from profiler.cuda import CudaError
from profiler.errors import BackendError, MeasureError
from tests.profiler.tensorrt import standin

STRONGLY_TYPED = ["11.4.0.106"]


def test_the_output_is_that_of_the_model(bench):
    model = standin.conv_model(batch=2)
    inputs = standin.floats(2 * 3 * 8 * 8)

    outputs = bench.open(batch=2).load(model).evaluate(inputs)

    np.testing.assert_allclose(
        np.frombuffer(outputs, np.float32), np.frombuffer(standin.run_directly(model, inputs), np.float32), rtol=1e-6
    )


def test_latency_is_taken_from_enqueue_to_synchronised_completion_and_copies_nothing(bench):
    engine = bench.open().load(standin.conv_model())
    bench.world.calls.clear()

    engine.run(2)

    assert bench.world.calls == [("IExecutionContext", execute_of(bench.version)), ("cuda", "synchronize")] * 2
    assert not bench.world.pending


def execute_of(version):
    return "execute_async_v2" if version in ("8.0.1", "8.2.1") else "execute_async_v3"


def waits(calls):
    """How many inferences were in the queue at each synchronisation."""
    found, queued = [], 0
    for _, member in calls:
        if member == "synchronize":
            found.append(queued)
            queued = 0
        else:
            queued += 1
    assert queued == 0, "nobody waits for the last ones"
    return found


@pytest.mark.parametrize(
    ("repeats", "expected"), [(1, [1]), (63, [63]), (64, [64]), (65, [64, 1]), (150, [64, 64, 22]), (0, [])]
)
def test_queued_inferences_share_one_wait_for_up_to_64_of_them(bench_of, repeats, expected):
    bench = bench_of("10.3.0")
    engine = bench.open().load(standin.conv_model())
    bench.world.calls.clear()

    engine.run_queued(repeats)

    assert waits(bench.world.calls) == expected
    assert not bench.world.pending


def test_queued_inferences_are_enqueued_and_waited_for_and_nothing_else(bench):
    """No event, copy or allocation: each would cost energy that is not the operator's."""
    model, inputs = standin.conv_model(), standin.floats(192)
    engine = bench.open().load(model)
    bench.world.calls.clear()

    engine.run_queued(3)

    execute = ("IExecutionContext", execute_of(bench.version))
    assert bench.world.calls == [execute, execute, execute, ("cuda", "synchronize")]
    np.testing.assert_allclose(
        np.frombuffer(engine.evaluate(inputs), np.float32),
        np.frombuffer(standin.run_directly(model, inputs), np.float32),
        rtol=1e-6,
    )


def test_launches_of_a_cuda_graph_are_queued_alike(bench):
    engine = bench.open(cuda_graph=True).load(standin.conv_model())
    bench.world.calls.clear()

    engine.run_queued(65)

    assert waits(bench.world.calls) == [64, 1]
    assert {call for call in bench.world.calls} == {("cuda", "launch"), ("cuda", "synchronize")}


def test_each_of_several_streams_queues_its_own(bench_of):
    bench = bench_of("10.3.0")
    two = bench.open(streams=2).load(standin.conv_model()).in_streams(2)
    bench.world.calls.clear()

    two.run_queued(70)

    members = [member for _, member in bench.world.calls]
    assert members.count("execute_async_v3") == 2 * 70 and members.count("synchronize") == 2 * 2
    assert not bench.world.pending


def test_what_is_queued_before_a_refused_inference_is_waited_for(bench):
    """Releasing a buffer while the GPU uses it is undefined, says the documentation of execute_async_v3."""
    engine = bench.open().load(standin.conv_model())
    enqueue, left = engine._enqueue, [5]

    def refused_at_last():
        left[0] -= 1
        return left[0] >= 0 and enqueue()

    engine._enqueue = refused_at_last

    with pytest.raises(MeasureError, match="did not accept the inference"):
        engine.run_queued(64)
    assert bench.world.used[("IExecutionContext", execute_of(bench.version))] == 5
    assert not bench.world.pending


def clock_of_steps(monkeypatch, step_s):
    """Every reading of the engine's clock is one step later."""
    now = [0.0]

    def read():
        now[0] += step_s
        return now[0]

    monkeypatch.setattr(engine_module, "time", types.SimpleNamespace(perf_counter=read))


def test_gpu_time_is_that_of_many_inferences_queued_between_two_events(bench, monkeypatch):
    """The stand-in takes 0.25 ms for each inference in the queue."""
    loaded = bench.open().load(standin.conv_model())
    clock_of_steps(monkeypatch, 0.0)
    bench.world.calls.clear()

    times = loaded.device_times(1)

    assert times.gpu_ms == 0.25
    calls = [call for _, call in bench.world.calls]
    first, second = [index for index, call in enumerate(calls) if call == "record"]
    assert second - first - 1 == engine_module.QUEUED
    assert "synchronize" not in calls[first:second]
    assert (
        calls[first - engine_module.LEAD : first] == [calls[0]] * engine_module.LEAD
    )  # the GPU is busy at the first event
    assert calls[second + 1 :] == ["elapsed_ms"]


def test_at_most_200_ms_of_inferences_are_queued(bench_of, monkeypatch):
    bench = bench_of("10.3.0")
    loaded = bench.open().load(standin.conv_model())
    clock_of_steps(monkeypatch, 1 / 32)  # an enqueue takes one step and an inference two, which is 62.5 ms
    bench.world.calls.clear()

    loaded.device_times(1)

    calls = [call for _, call in bench.world.calls]
    first, second = [index for index, call in enumerate(calls) if call == "record"]
    assert second - first - 1 == 3


def taken_one_by_one(bench, repeats):
    """How many inferences `device_times` takes one by one."""
    loaded = bench.open().load(standin.conv_model())
    bench.world.calls.clear()
    loaded.device_times(repeats)
    return [call for _, call in bench.world.calls].count("synchronize")


def test_enqueue_time_is_that_of_the_call_alone_into_an_empty_queue(bench_of, monkeypatch):
    bench = bench_of("8.6.1")
    loaded = bench.open().load(standin.conv_model())
    clock_of_steps(monkeypatch, 0.001)

    bench.world.calls.clear()
    assert loaded.device_times(12).enqueue_ms == 1.0

    assert [call for _, call in bench.world.calls].count("synchronize") == 12
    assert taken_one_by_one(bench, 1) == engine_module.TIMED  # few repeats are not enough for a mean


def test_a_cuda_graph_is_captured_once_and_launched_for_every_inference(bench):
    model, inputs = standin.conv_model(), standin.floats(192)
    loaded = bench.open(cuda_graph=True).load(model)
    bench.world.calls.clear()

    loaded.run(2)

    assert bench.world.calls == [("cuda", "launch"), ("cuda", "synchronize")] * 2
    np.testing.assert_allclose(
        np.frombuffer(loaded.evaluate(inputs), np.float32),
        np.frombuffer(standin.run_directly(model, inputs), np.float32),
        rtol=1e-6,
    )
    assert loaded.device_times(1).gpu_ms == 0.25
    loaded.close()
    assert not bench.cuda.graphs


def test_an_engine_that_cannot_be_captured_is_an_error_with_a_remedy(bench_of):
    bench = bench_of("10.3.0")
    bench.cuda.fail["capture"] = CudaError("cudaStreamEndCapture", 901, "cudaErrorStreamCaptureInvalidated", "invalid")
    with pytest.raises(MeasureError, match="cannot be captured as a CUDA graph: CUDA: cudaStreamEndCapture") as caught:
        bench.open(cuda_graph=True).load(standin.conv_model())
    assert (caught.value.code, caught.value.remedy) == ("load", "measure it without --cuda-graph")
    assert not caught.value.fatal
    assert not bench.cuda.buffers and not bench.cuda.streams


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_each_of_several_streams_has_a_context_buffers_and_a_cuda_stream_on_the_same_weights(bench, cuda_graph):
    model, inputs = standin.conv_model(), standin.floats(192)
    loaded = bench.open(cuda_graph=cuda_graph, streams=2).load(model)
    alone_bytes, buffers = loaded.memory_bytes(), len(bench.cuda.buffers)
    plan_bytes = loaded.engine_bytes()

    two = loaded.in_streams(2)
    streams = two.timed(1, 4, time.perf_counter)

    assert [len(each.samples_ms) >= 4 for each in streams] == [True, True]
    assert len(bench.cuda.streams) == 2 and len(bench.cuda.buffers) == 2 * buffers
    assert two.memory_bytes() == (None if alone_bytes is None else 2 * alone_bytes - plan_bytes)
    np.testing.assert_allclose(
        np.frombuffer(two.evaluate(inputs), np.float32),
        np.frombuffer(standin.run_directly(model, inputs), np.float32),
        rtol=1e-6,
    )
    del loaded, two
    assert not bench.cuda.buffers and not bench.cuda.streams and not bench.cuda.graphs


def test_cuda_graphs_need_a_layer_that_has_them(bench_of):
    bench = bench_of("10.3.0")
    bench.cuda.captures_graphs = False
    with pytest.raises(BackendError, match=r"CUDA \(stand-in\) has no CUDA graphs"):
        bench.open(cuda_graph=True)


def test_peak_memory_is_plan_plus_scratch_plus_inputs_and_outputs(bench):
    """The stand-in needs 3 MB; in and out are 3x8x8 and 4x8x8 floats."""
    engine = bench.open().load(standin.conv_model())
    (plan,) = [path for path in bench.home.rglob("*.engine")]

    ends = sum(port.size for port in engine.ports)
    assert engine.memory_bytes() == 3 * 2**20 + plan.stat().st_size + ends
    assert engine.peak_memory_mb() == pytest.approx(3 * 2**20 / 1e6 + (plan.stat().st_size + ends) / 1e6, abs=1e-6)


def test_every_load_of_a_model_runs_on_the_same_numbers(bench_of):
    contents = []
    for home in ("one", "two"):
        bench = bench_of("10.3.0", home)
        engine = bench.open().load(standin.conv_model())
        contents.append(bench.cuda.from_device(engine._pointers[0], engine.ports[0].size))
    assert contents[0] == contents[1]
    values = np.frombuffer(contents[0], np.float32)
    assert abs(values.mean()) < 0.3 and 0.7 < values.std() < 1.3


def test_an_evaluation_leaves_the_timed_inputs_as_they_were(bench_of):
    bench = bench_of("8.2.1")
    engine = bench.open().load(standin.conv_model())
    before = bench.cuda.from_device(engine._pointers[0], engine.ports[0].size)

    engine.evaluate(standin.floats(3 * 8 * 8))

    assert bench.cuda.from_device(engine._pointers[0], engine.ports[0].size) == before


def test_inputs_and_outputs_in_fp16_are_converted(bench_of):
    model = standin.conv_model(fp16=True)
    inputs = standin.floats(3 * 8 * 8)

    outputs = bench_of("11.4.0.106").open("fp16").load(model).evaluate(inputs)

    np.testing.assert_array_equal(
        np.frombuffer(outputs, np.float32), np.frombuffer(standin.run_directly(model, inputs), np.float32)
    )


@pytest.mark.parametrize(
    ("kind", "dtype", "middle"), [(onnx.TensorProto.INT8, np.int8, 0), (onnx.TensorProto.UINT8, np.uint8, 128)]
)
def test_inputs_in_8_bits_are_filled_so_that_three_deviations_are_the_largest_value(bench, kind, dtype, middle):
    loaded = bench.open("int8", batch=8).load(standin.eight_bit_model(kind, batch=8))

    assert [port.size for port in loaded.ports] == [8 * 3 * 8 * 8] * 2
    content = np.frombuffer(bench.cuda.from_device(loaded._pointers[0], loaded.ports[0].size), dtype)
    spread = content.astype(float) - middle
    assert abs(spread.mean()) < 5 and 127 / 3 * 0.9 < spread.std() < 127 / 3 * 1.1
    assert np.abs(spread).max() <= 127
    loaded.run(1)
    assert len(loaded.evaluate(content.tobytes())) == 8 * 3 * 8 * 8  # exchanged as they are


def test_a_vectorised_format_has_room_for_its_padding(bench):
    """3 channels in a format of 8 together occupy 8."""
    bench.world.formats["input"] = ("HWC8", 1, 8)
    loaded = bench.open().load(standin.conv_model())
    assert [(port.size, port.is_linear) for port in loaded.ports] == [(8 * 8 * 8 * 4, False), (4 * 8 * 8 * 4, True)]
    with pytest.raises(MeasureError, match="in linear format"):
        loaded.evaluate(standin.floats(192))


# What each version receives


def test_edges_inside_a_network_may_have_any_format_of_their_type(bench):
    strong = bench.version in STRONGLY_TYPED
    names = {
        "fp32": ["LINEAR", "HWC"],
        "fp16": ["LINEAR", "CHW2", "HWC8"],
        "int8": ["LINEAR", "CHW4", "CHW32"] + ["HWC16"] * strong,
    }
    inner = {network.INNER_EDGES: "input output"}
    models = {
        "fp32": standin.conv_model(metadata=inner),
        "fp16": standin.conv_model(fp16=True, metadata=inner),
        "int8": standin.eight_bit_model(metadata=inner),
    }
    for precision, model in models.items():
        bench.open(precision).load(model)

    for precision, built in zip(models, bench.world.networks):  # noqa: B905  # Python 3.6 has no strict=
        wanted = sum(1 << int(bench.trt.TensorFormat[name]) for name in names[precision])
        assert [edge.__dict__["=allowed_formats"] for edge in built._edges[0] + built._edges[1]] == [wanted] * 2


def test_other_edges_stay_linear(bench_of):
    """The stem of a network reads images and writes activations."""
    bench = bench_of("10.3.0")
    bench.open().load(standin.conv_model(metadata={network.INNER_EDGES: "output"}))
    (image,), (activation,) = bench.world.networks[0]._edges
    assert "=allowed_formats" in activation.__dict__ and "=allowed_formats" not in image.__dict__


def test_metadata_is_read_from_the_bytes_of_a_model():
    model = standin.conv_model(metadata={"one": "1", "two": "\u00fc" * 200})
    assert onnx_file.read_metadata(model) == {"one": "1", "two": "\u00fc" * 200}
    for length in range(len(model)):
        onnx_file.read_metadata(model[:length])
    assert onnx_file.read_metadata(b"\xff" * 40) == {}


def test_a_model_of_any_kind_gets_a_quarter_of_the_memory_to_build_in(bench_of):
    bench = bench_of("10.3.0")
    bench.open(batch=None).load(standin.conv_model())
    assert bench.world.configs[0]._pools == {"WORKSPACE": 2**30}  # of 4 GiB


def test_fp32_sets_no_precision_flag(bench):
    bench.open().load(standin.conv_model())
    assert bench.world.configs[0]._flags == []


def test_fp16_is_a_flag_before_11_and_part_of_the_graph_from_11_on(bench):
    strong = bench.version in STRONGLY_TYPED
    backend = bench.open("fp16")

    backend.load(standin.conv_model(fp16=strong))

    assert bench.world.configs[0]._flags == ([] if strong else ["FP16"])
    assert backend.fingerprint()["precision_by"] == ("graph" if strong else "flag")


@pytest.mark.parametrize("version", STRONGLY_TYPED)
@pytest.mark.parametrize(("precision", "fp16", "in_the_model"), [("fp16", False, "fp32"), ("fp32", True, "fp16")])
def test_from_11_on_a_model_in_another_precision_is_refused(bench_of, version, precision, fp16, in_the_model):
    with pytest.raises(MeasureError, match=f"this model computes in {in_the_model}, not in {precision}") as caught:
        bench_of(version).open(precision).load(standin.conv_model(fp16=fp16))
    assert caught.value.code == "load"
    assert caught.value.remedy == f"export it in {precision}, or use --precision {in_the_model}"


@pytest.mark.parametrize("version", STRONGLY_TYPED)
def test_convolutions_decide_the_precision_and_not_the_casts_at_the_edges(bench_of, version):
    bench = bench_of(version)
    bench.open("fp16").load(standin.half_inside_model())
    with pytest.raises(MeasureError, match="computes in fp16, not in fp32"):
        bench.open("fp32").load(standin.half_inside_model())


def test_a_graph_in_half_precision_gets_the_flag_where_there_is_one_and_is_never_fp32(bench):
    strong = bench.version in STRONGLY_TYPED
    bench.open("fp16").load(standin.half_inside_model())
    assert bench.world.configs[0]._flags == ([] if strong else ["FP16"])
    with pytest.raises(MeasureError, match="this model computes in fp16, not in fp32") as caught:
        bench.open("fp32").load(standin.half_inside_model())
    assert caught.value.remedy == "export it in fp32, or use --precision fp16"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantized_model_is_measured_as_int8_alone(bench, precision):
    with pytest.raises(MeasureError, match=f"is quantised .* it would not compute in {precision}") as caught:
        bench.open(precision).load(standin.quantized_model())
    assert (caught.value.code, caught.value.remedy) == ("load", f"export it in {precision}, or use --precision int8")


def test_int8_permits_fp16_for_what_has_no_int8_kernel_where_flags_decide(bench):
    bench.open("int8").load(standin.quantized_model())
    assert bench.world.configs[0]._flags == ([] if bench.version in STRONGLY_TYPED else ["FP16", "INT8"])


def test_the_batch_is_explicit_wherever_there_is_a_flag_for_it(bench):
    bench.open().load(standin.conv_model())
    assert bench.world.networks[0]._creation_flags == (0 if bench.version in STRONGLY_TYPED else 1)


def test_the_workspace_is_bounded(bench):
    bench.open().load(standin.conv_model())
    config = bench.world.configs[0]
    if bench.version in ("8.0.1", "8.2.1"):
        assert config.max_workspace_size == WORKSPACE_BYTES
    else:
        assert config._pools == {"WORKSPACE": WORKSPACE_BYTES}


def test_the_workspace_is_smaller_on_a_board_with_little_memory(bench_of):
    bench = bench_of("8.2.1")
    bench.cuda = standin.HostCuda(bench.world, memory_bytes=2 * 2**30)
    bench.open().load(standin.conv_model())
    assert bench.world.configs[0].max_workspace_size == 256 * 2**20


def test_details_are_built_in_only_where_the_timed_context_can_be_silenced(bench):
    loaded = bench.open().load(standin.conv_model())
    verbosity = bench.world.configs[0].profiling_verbosity
    if bench.version in ("8.0.1", "8.2.1"):
        assert verbosity == bench.trt.ProfilingVerbosity["DEFAULT"]
    else:
        assert verbosity == bench.trt.ProfilingVerbosity["DETAILED"]
        assert loaded._context.nvtx_verbosity == bench.trt.ProfilingVerbosity["NONE"]


def test_progress_is_logged_while_building_where_tensorrt_reports_it(bench, monkeypatch):
    monkeypatch.setattr("profiler.backends.tensorrt.adaptors.PROGRESS_INTERVAL_S", 0.0)

    bench.open().load(standin.conv_model())

    progress = [line for line in bench.lines if "step 1 of 2" in line]
    assert len(progress) == (0 if bench.version.startswith("8.") else 1)
    assert bench.lines[-1].startswith("built ")


def test_layer_times_come_from_a_context_of_their_own(bench):
    engine = bench.open().load(standin.conv_model())

    assert engine.layer_times_ms(runs=4) == [("conv", 0.25), ("relu", 0.5)]

    bench.world.calls.clear()
    engine.run(1)
    assert ("IProfiler", "report_layer_time") not in bench.world.calls
    assert engine._context.__dict__.get("=profiler") is None


def test_the_inspector_names_layers_and_tensors_from_8_2_on(bench):
    information = bench.open().load(standin.conv_model()).inspect()
    if bench.version == "8.0.1":
        assert information is None
    else:
        names = [layer if isinstance(layer, str) else layer["Name"] for layer in information["Layers"]]
        assert names == ["conv", "relu"]


def test_each_layer_has_its_kind_precision_and_time_where_tensorrt_says_so(bench):
    conv, relu = bench.open().load(standin.conv_model()).layers()
    assert [(layer.name, layer.ms) for layer in (conv, relu)] == [("conv", 0.25), ("relu", 0.5)]
    known = bench.version not in ("8.0.1", "8.2.1")
    assert (conv.kind, conv.precision) == (("convolution", "fp32") if known else (None, None))


def test_what_an_engine_ran_in_is_known_from_8_5_2_on_and_its_size_always(bench):
    """The stand-in's convolution runs in float32: in a job of fp16, where the model is in float32, it fell back."""
    by_flag = bench.version not in STRONGLY_TYPED
    engine = bench.open(precision="fp16" if by_flag else "fp32").load(standin.conv_model())

    found = engine.ran_in(standin.conv_model())

    plans = [os.path.getsize(path) for path in engines(bench)]
    assert [engine.engine_bytes()] == plans
    if bench.version in ("8.0.1", "8.2.1"):
        assert found is None
    else:
        assert (found.counts, found.fell_back) == ({"fp32": 1}, ["conv"] if by_flag else [])


def test_a_layer_profile_has_each_layer_in_each_run_with_its_nodes(bench):
    profile = bench.open().layer_profile(standin.conv_model(), 3)

    assert (profile["source"], profile["runs"], len(profile["total_ms"])) == ("tensorrt", 3, 3)
    assert [(layer["name"], layer["times_ms"]) for layer in profile["layers"]] == [
        ("conv", [0.25] * 3), ("relu", [0.5] * 3),
    ]  # fmt: skip
    assert [layer["onnx_nodes"] for layer in profile["layers"]] == [["conv"], ["relu"]]
    known = bench.version not in ("8.0.1", "8.2.1")
    precision, reformat = ("fp32", False) if known else (None, None)
    assert {(layer["precision"], layer["is_reformat"]) for layer in profile["layers"]} == {(precision, reformat)}
    assert "each lies between two events" in profile["warnings"][0] and len(profile["warnings"]) == (1 if known else 2)
    assert not bench.cuda.buffers and not bench.cuda.streams


def test_several_inputs_and_outputs_are_exchanged_in_the_model_s_types(bench):
    """Before version 10 the engine has int32 where the model has int64."""
    engine = bench.open(batch=None).load(standin.token_model())
    wide = hasattr(bench.trt.DataType, "INT64")
    assert [(port.name, port.element) for port in engine.ports[:2]] == [
        ("ids", "int64" if wide else "int32"), ("mask", "bool"),
    ]  # fmt: skip

    engine.run(1)  # ids beyond the table would fail
    standin.check_tokens(engine.evaluate(standin.tokens()))

    with pytest.raises(MeasureError, match="the inputs have 35 bytes, and one inference needs 36: ids 32, mask 4"):
        engine.evaluate(standin.tokens()[:-1])


def test_a_number_that_int32_cannot_hold_is_refused_and_not_wrapped(bench_of):
    engine = bench_of("8.6.1").open(batch=None).load(standin.token_model())
    with pytest.raises(MeasureError, match="a value that TensorRT's type cannot hold"):
        engine.evaluate(standin.tokens(ids=(2**31, 0, 0, 0)))


def test_without_a_batch_models_have_their_own_shapes(bench):
    backend = bench.open(batch=None)
    assert backend.fingerprint()["batch"] is None
    for batch in (1, 3):
        backend.load(standin.conv_model(batch=batch)).run(1)


@pytest.mark.parametrize(
    "value", [0.0, -1.5, 3.1415927, 65504.0, 1e-40, float("inf"), float("nan"), 1.00390625, 1.01171875]
)
def test_bfloat16_is_the_nearest_upper_half_of_a_float32(value):
    """Ties go to even: 1.00390625 lies in the middle of 1 and 1.0078125, 1.01171875 in that of 1.0078125 and 1.015625."""
    ties = {1.00390625: 1.0, 1.01171875: 1.015625}
    packed = values.to_port(np.float32(value).tobytes(), "bfloat16", "float32")
    found = np.frombuffer(values.from_port(packed, "bfloat16", "float32"), np.float32)[0]
    assert len(packed) == 2
    if value in ties:
        assert found == ties[value]
    elif np.isnan(value):
        assert np.isnan(found)
    else:
        assert found == pytest.approx(value, rel=2**-8, abs=1e-40)


def test_a_command_describes_the_engine_of_one_model(bench, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(standin.conv_model())
    options = {"library": bench.trt, "cuda": bench.cuda, "release_file": "/nowhere", "progress": bench.lines.append}

    assert command.main([str(path), "--home", str(bench.home)], **options) == 0

    record = json.loads(capsys.readouterr().out)
    assert record["gpu_ms"] == 0.25 and record["latency_ms"] > 0
    assert [layer["name"] for layer in record["layers"]] == ["conv", "relu"]
    assert record["summary"]["fall_backs"] == (None if bench.version in ("8.0.1", "8.2.1") else [])

    assert command.main([str(path), "--home", str(bench.home), "--precision", "int8"], **options) == 1
    assert "try: quantise it at export (Q/DQ)" in capsys.readouterr().err
    assert command.main([str(tmp_path / "none.onnx"), "--home", str(bench.home)], **options) == 1


def test_int8_needs_a_board_that_has_it(bench_of):
    bench = bench_of("8.2.1")
    bench.world.fast_int8 = False
    with pytest.raises(BackendError, match=r"NVIDIA Tegra X1 \(compute capability 5.3\) has no fast int8") as caught:
        bench.open("int8")
    assert caught.value.remedy == "use --precision fp16"


def test_int8_needs_scales_in_the_graph(bench):
    with pytest.raises(MeasureError, match="no QuantizeLinear or DequantizeLinear"):
        bench.open("int8").load(standin.conv_model())


def test_an_unknown_precision_is_refused(bench_of):
    with pytest.raises(BackendError, match="does not know the precision 'fp8'"):
        bench_of("8.2.1").open("fp8")


def test_the_fingerprint_has_device_version_and_precision(bench_of):
    assert bench_of("8.2.1").open("fp16", batch=4).fingerprint() == {
        "backend": "tensorrt",
        "backend_version": "8.2.1",
        "provider": "NVIDIA Tegra X1 sm_5.3",
        "precision": "fp16",
        "precision_by": "flag",
        "batch": 4,
        "threads": 1,
        "cuda_layer": "stand-in",
        "cuda_graph": False,
    }


def test_the_runtime_record_is_json(bench):
    record = bench.open().runtime()
    assert json.loads(json.dumps(record)) == record
    assert record["inputs_by"] == ("index" if bench.version in ("8.0.1", "8.2.1") else "name")


# Engines and the timing cache on the card


def engines(bench):
    return sorted(bench.home.rglob("*.engine"))


def test_an_engine_is_built_once_and_kept_with_its_metadata(bench):
    model = standin.conv_model()
    first = bench.open().load(model)
    second = bench.open().load(model)

    assert bench.world.used["Builder", "build_serialized_network"] == 1
    assert first.evaluate(standin.floats(192)) == second.evaluate(standin.floats(192))
    (path,) = engines(bench)
    metadata = json.loads(path.with_name(path.name + ".json").read_text())
    assert metadata["tensorrt"] == bench.version
    assert metadata["device"] == "NVIDIA Tegra X1"
    assert metadata["settings"]["precision"] == "fp32"


def test_engines_are_readable_by_their_user_alone(bench_of):
    bench = bench_of("10.3.0")
    bench.open().load(standin.conv_model())
    (path,) = engines(bench)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("device", "Orin", "device (file: 'Orin', here: 'NVIDIA Tegra X1')"),
        ("tensorrt", "8.0.1", "tensorrt (file: '8.0.1', here: '8.2.1')"),
        ("compute_capability", "8.7", "compute_capability (file: '8.7', here: '5.3')"),
        ("l4t", "# R32 (release), REVISION: 6.1", "l4t (file: '# R32 (release), REVISION: 6.1', here: None)"),
    ],
)
def test_an_engine_built_elsewhere_is_refused_and_built_again(bench_of, field, value, text):
    bench = bench_of("8.2.1")
    backend, model = bench.open(), standin.conv_model()
    backend.load(model)
    (path,) = engines(bench)
    metadata = json.loads(path.with_name(path.name + ".json").read_text())
    path.with_name(path.name + ".json").write_text(json.dumps(dict(metadata, **{field: value})))

    with pytest.raises(MeasureError, match="was not built here") as caught:
        backend.read_engine(str(path))
    assert text in caught.value.message

    deserialized = bench.world.used["Runtime", "deserialize_cuda_engine"]
    backend.load(model)
    assert bench.world.used["Builder", "build_serialized_network"] == 2
    assert bench.world.used["Runtime", "deserialize_cuda_engine"] == deserialized + 1  # the new one only
    assert any("building again" in line and text in line for line in bench.lines)


def test_a_damaged_engine_is_never_given_to_tensorrt(bench_of):
    bench = bench_of("10.3.0")
    backend = bench.open()
    backend.load(standin.conv_model())
    (path,) = engines(bench)
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(MeasureError, match="engine_sha256"):
        backend.read_engine(str(path))


def test_an_engine_without_metadata_is_refused(bench_of, tmp_path):
    (tmp_path / "found.engine").write_bytes(b"code")
    with pytest.raises(MeasureError, match="has no metadata"):
        bench_of("10.3.0").open().read_engine(str(tmp_path / "found.engine"))


def test_the_least_recently_used_engines_are_deleted_first(bench_of, monkeypatch):
    bench = bench_of("8.6.1")
    backend = bench.open()
    models = [standin.conv_model(seed=seed) for seed in range(3)]
    backend.load(models[0])
    (first,) = engines(bench)
    monkeypatch.setattr(cache, "KEPT_BYTES", 2 * first.stat().st_size)
    backend.load(models[1])
    (second,) = set(engines(bench)) - {first}
    os.utime(first, (2, 2))
    os.utime(second, (1, 1))

    backend.load(models[2])

    assert first in engines(bench) and second not in engines(bench)
    assert len(engines(bench)) == len(list(bench.home.rglob("*.engine.json"))) == 2


def test_on_a_full_card_an_engine_works_and_is_not_kept(bench_of, monkeypatch):
    bench = bench_of("8.6.1")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "replace", full)
    bench.open().load(standin.conv_model()).run(1)
    assert any("the engine is not kept: [Errno 28]" in line for line in bench.lines)


def test_what_is_built_is_loaded_by_another_process_without_building(bench_of):
    bench = bench_of("8.2.1")
    model = standin.conv_model()
    assert bench.open().needs_build and not bench.open().is_built(model)

    bench.open().build(model)

    assert bench.open().is_built(model)
    bench.open().load(model).run(1)
    assert bench.world.used["Builder", "build_serialized_network"] == 1


def test_an_engine_of_a_smaller_workspace_is_kept_and_says_so(bench_of):
    bench = bench_of("8.2.1")
    model = standin.conv_model()
    bench.open().build(model, workspace_share=0.25)
    assert bench.world.configs[0].max_workspace_size == WORKSPACE_BYTES // 4
    (path,) = engines(bench)
    assert json.loads(path.with_name(path.name + ".json").read_text())["workspace_share"] == 0.25
    assert bench.open().is_built(model)


def test_kernels_are_chosen_again_for_another_power_mode_and_both_engines_are_kept(bench_of):
    bench = bench_of("8.6.1")
    model = standin.conv_model()
    modes = [Conditions("MAXN", "locked"), Conditions("15W 2 core", "locked"), Conditions("MAXN", "locked")]
    for conditions in modes:
        bench.open(conditions=conditions).load(model)
    assert bench.world.used["Builder", "build_serialized_network"] == 2
    assert [path.name[33:] for path in engines(bench)] == ["fp32-15W_2_core-locked.engine", "fp32-MAXN-locked.engine"]
    assert sorted(path.name for path in bench.home.rglob("timing*")) == [
        "timing-15W_2_core-locked.cache", "timing-MAXN-locked.cache",
    ]  # fmt: skip


def test_a_kept_engine_that_does_not_deserialise_is_deleted_and_built_again(bench):
    backend, model = bench.open(), standin.conv_model()
    backend.load(model)
    started = standin.head(bench.trt)
    (path,) = engines(bench)
    plan = b"JUNK" + path.read_bytes()[len(started) :]
    backend._cache.keep(hashlib.sha256(model).hexdigest(), plan)  # as its metadata says, and yet not an engine

    backend.load(model).run(1)

    assert bench.world.used["Builder", "build_serialized_network"] == 2
    assert engines(bench)[0].read_bytes().startswith(started)
    assert any("building again: TensorRT" in line and "is not compatible" in line for line in bench.lines)


def test_a_kept_engine_that_finds_no_memory_stays(bench_of):
    bench = bench_of("8.2.1")
    backend, model = bench.open(), standin.conv_model()
    backend.build(model)
    bench.world.refuse.add("deserialize_cuda_engine")
    bench.world.say = ["Error Code 2: OutOfMemory (no further information)"]
    with pytest.raises(MeasureError) as caught:
        backend.load(model)
    assert caught.value.code == "memory"
    assert len(engines(bench)) == 1
    assert bench.world.used["Builder", "build_serialized_network"] == 1


def cache_path(bench):
    (path,) = bench.home.rglob("timing.cache") if list(bench.home.rglob("timing.cache")) else (None,)
    return path


def test_the_timing_cache_grows_from_build_to_build(bench):
    backend = bench.open()
    backend.load(standin.conv_model(seed=0))
    backend.load(standin.conv_model(seed=1))
    assert cache_path(bench).read_bytes() == b"timed;timed;"
    assert cache_path(bench).parent.name == f"{bench.version}-sm53"


def test_a_timing_cache_that_tensorrt_refuses_is_replaced(bench_of):
    bench = bench_of("10.3.0")
    backend = bench.open()
    backend.load(standin.conv_model(seed=0))
    cache_path(bench).write_bytes(b"other device")

    backend.load(standin.conv_model(seed=1))

    assert cache_path(bench).read_bytes() == b"timed;"


def test_timings_are_kept_after_a_failed_build_too(bench):
    bench.world.refuse.add("build_serialized_network")
    with pytest.raises(MeasureError):
        bench.open().build(standin.conv_model())
    assert cache_path(bench).read_bytes() == b"timed;"


# What goes wrong


def test_the_error_of_a_model_that_cannot_be_parsed_names_the_node_and_its_operator(bench):
    bench.world.refuse.add("parse")
    message = r"cannot parse the model: node relu \(Relu of ai.onnx opset 13\): it has no such operator \(No importer registered"
    with pytest.raises(MeasureError, match=message) as caught:
        bench.open().load(standin.conv_model())
    assert caught.value.code == "load" and "a lower --opset" in caught.value.remedy


def test_a_node_that_the_parser_does_not_find_in_the_model_is_named_by_its_number(bench_of):
    bench = bench_of("8.2.1")
    bench.world.refuse.add("parse")
    bench.world.failed_node = 7
    with pytest.raises(
        MeasureError, match=r"cannot parse the model: node 7: it has no such operator \(No importer registered"
    ):
        bench.open().load(standin.conv_model())


def test_a_failed_build_has_a_reason_and_keeps_nothing(bench):
    bench.world.refuse.add("build_serialized_network")
    bench.world.say = ["Could not find any implementation for node conv."]
    with pytest.raises(MeasureError, match="cannot build the model in fp32: Could not find any implementation"):
        bench.open().load(standin.conv_model())
    assert engines(bench) == []


def test_a_build_without_memory_has_a_remedy(bench_of):
    bench = bench_of("8.2.1")
    bench.world.refuse.add("build_serialized_network")
    bench.world.say = ["[virtualMemoryBuffer.cpp] Cuda failure: out of memory"]
    with pytest.raises(MeasureError) as caught:
        bench.open().load(standin.conv_model())
    assert caught.value.remedy.startswith("free memory on the board")
    assert (caught.value.code, caught.value.fatal) == ("memory", False)


STICKY = [
    "1: [defaultAllocator.cpp::deallocate::42] Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
    "[caskUtils.cpp] Cuda failure: unspecified launch failure",
    "Error Code 1: Cuda Driver (misaligned address)",
    "CUDA error 719 launching kernel",
    "Cuda failure: 700",
]


@pytest.mark.parametrize("message", STICKY)
def test_a_lost_device_in_the_builder_ends_the_process_and_blames_no_memory(bench_of, message):
    bench = bench_of("8.2.1")
    bench.world.refuse.add("build_serialized_network")
    bench.world.say = [message]
    with pytest.raises(MeasureError) as caught:
        bench.open().build(standin.conv_model())
    assert caught.value.fatal and caught.value.code == "load"
    assert "free memory" not in caught.value.remedy
    assert caught.value.remedy.startswith("CUDA is lost for this process")


@pytest.mark.parametrize("message", STICKY)
def test_a_lost_device_in_an_inference_ends_the_process(bench, message):
    loaded = bench.open().load(standin.conv_model())
    bench.world.refuse.add("execute")
    bench.world.say = [message]
    with pytest.raises(MeasureError) as caught:
        loaded.run(1)
    assert caught.value.fatal and caught.value.code == "run"


def test_a_lost_device_while_loading_is_not_answered_with_a_build(bench_of):
    bench = bench_of("10.3.0")
    backend, model = bench.open(), standin.conv_model()
    backend.build(model)
    bench.world.refuse.add("deserialize_cuda_engine")
    bench.world.say = STICKY[:1]
    with pytest.raises(MeasureError) as caught:
        backend.load(model)
    assert caught.value.fatal
    assert bench.world.used["Builder", "build_serialized_network"] == 1


def test_errors_of_one_model_are_not_blamed_on_the_next(bench_of):
    bench = bench_of("8.2.1")
    backend = bench.open()
    bench.world.refuse.add("build_serialized_network")
    bench.world.say = ["first"]
    with pytest.raises(MeasureError, match="first"):
        backend.load(standin.conv_model())
    bench.world.say = []
    backend._log.log(bench.trt.ILogger.Severity.ERROR, "between two builds")
    with pytest.raises(MeasureError, match="it gave no reason"):
        backend.load(standin.conv_model())


def test_a_library_that_does_not_start_is_a_backend_error(bench):
    bench.world.refuse.add("Builder")
    with pytest.raises(BackendError, match=r"does not start: CUDA initialization failure with error: 35"):
        bench.open()


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("deserialize_cuda_engine", "cannot load the engine it built: The engine plan file is not compatible"),
        ("create_execution_context", "cannot create an execution context"),
    ],
)
def test_an_engine_that_does_not_open_leaves_nothing_behind(bench, broken, text):
    bench.world.refuse.add(broken)
    with pytest.raises(MeasureError, match=text):
        bench.open().load(standin.conv_model())
    assert not bench.cuda.buffers and not bench.cuda.streams


def test_a_library_for_other_gpus_is_named_as_the_reason():
    """What TensorRT for RTX 1.7.1 said on an NVIDIA H100."""
    said = (
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
        "compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. TensorRT-RTX does not "
        "support this compute capability, so the engine cannot be rebuilt for it. In throwUnlessComputeCapSupported at "
        "/_src/runtime/dispatch/runtime.cpp:84)"
    )
    err = failure("1.7.1.116", "cannot load the engine it built", [said])

    assert (err.code, err.fatal) == ("load", False)
    assert "made for this GPU" in err.remedy and "compute capability" in err.remedy


def test_a_refused_buffer_is_an_error(bench_of):
    bench = bench_of("8.5.2")
    bench.world.refuse.add("set_tensor_address")
    with pytest.raises(MeasureError, match="refuses the buffer of input"):
        bench.open().load(standin.conv_model())
    assert not bench.cuda.buffers and not bench.cuda.streams


def test_a_refused_inference_is_an_error_and_not_a_fast_one(bench):
    engine = bench.open().load(standin.conv_model())
    bench.world.refuse.add("execute")
    for attempt in (engine.run, engine.run_queued, engine.device_times, engine.layer_times_ms):
        with pytest.raises(MeasureError, match="did not accept the inference"):
            attempt(1)


def test_a_failed_allocation_frees_the_earlier_ones(bench_of):
    bench = bench_of("8.0.1")
    backend = bench.open()
    bench.cuda.fail["to_device"] = standin.lost_device()
    with pytest.raises(MeasureError, match="cudaErrorIllegalAddress") as caught:
        backend.load(standin.conv_model())
    assert caught.value.fatal
    assert not bench.cuda.buffers and not bench.cuda.streams


def test_closing_frees_everything_once(bench):
    engine = bench.open().load(standin.conv_model())
    engine.device_times(1)

    engine.close()
    engine.close()

    assert not bench.cuda.buffers and not bench.cuda.streams and not bench.cuda.events
    assert bench.world.used["cuda", "free"] == 2


def test_an_unloaded_engine_is_closed(bench_of):
    bench = bench_of("10.16.1.11")
    engine = bench.open().load(standin.conv_model())
    assert bench.cuda.buffers
    del engine
    assert not bench.cuda.buffers and not bench.cuda.streams


def test_closing_after_cuda_was_lost_does_not_hide_the_error(bench_of, capsys):
    bench = bench_of("10.3.0")
    engine = bench.open().load(standin.conv_model())
    bench.cuda.fail["free"] = standin.lost_device()
    engine.close()
    assert "clean-up: CUDA: cudaStreamSynchronize failed" in capsys.readouterr().err


def test_another_batch_size_is_refused(bench):
    with pytest.raises(MeasureError, match=r"input has shape \[2, 3, 8, 8\]; this job's batch size is 1"):
        bench.open(batch=1).load(standin.conv_model(batch=2))


def test_a_shape_that_is_not_fixed_is_refused(bench):
    with pytest.raises(MeasureError, match=r"the shape of input is not fixed: \[-1, 3, 8, 8\]"):
        bench.open().load(standin.conv_model(batch="n"))


def test_a_missing_library_has_a_remedy(tmp_path):
    with pytest.raises(BackendError, match="backend tensorrt cannot be used by") as caught:
        TensorRT("fp32", 1, 1, str(tmp_path))
    assert "python3-libnvinfer" in caught.value.remedy
