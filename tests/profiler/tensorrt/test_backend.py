"""The backend's logic, on a stand-in with the surface of each version. No number here is a measurement."""

import json
import os
import stat

import numpy as np
import pytest

from profiler.backends.tensorrt import WORKSPACE_BYTES, TensorRT
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

    execute = "execute_async_v2" if bench.version in ("8.0.1", "8.2.1") else "execute_async_v3"
    assert bench.world.calls == [("IExecutionContext", execute), ("cuda", "synchronize")] * 2
    assert not bench.world.pending


def test_device_time_is_taken_between_two_events_around_each_inference(bench):
    engine = bench.open().load(standin.conv_model())
    bench.world.calls.clear()

    assert engine.device_ms(3) == 0.25

    assert [call for _, call in bench.world.calls if call in ("record", "elapsed_ms")] == [
        "record", "record", "elapsed_ms",
    ] * 3  # fmt: skip


def test_peak_memory_is_plan_plus_scratch_plus_inputs_and_outputs(bench):
    """The stand-in needs 3 MB; in and out are 3x8x8 and 4x8x8 floats."""
    engine = bench.open().load(standin.conv_model())
    (plan,) = [path for path in bench.home.rglob("*.engine")]

    ends = sum(port.size for port in engine.ports)
    assert engine.peak_memory_mb() == pytest.approx(3 + (plan.stat().st_size + ends) / 2**20, abs=1e-6)


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


# What each version receives


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


def test_the_inspector_gets_the_most_detail(bench):
    bench.open().load(standin.conv_model())
    verbosity = bench.world.configs[0].profiling_verbosity
    assert verbosity == (bench.trt.ProfilingVerbosity["VERBOSE" if bench.version == "8.0.1" else "DETAILED"])


def test_progress_is_logged_while_building_where_tensorrt_reports_it(bench, monkeypatch):
    monkeypatch.setattr("profiler.backends.tensorrt.PROGRESS_INTERVAL_S", 0.0)

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
        assert [layer["Name"] for layer in information["layers"]] == ["conv", "relu"]
        assert len(information["tensors"]) == 2


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
    monkeypatch.setattr("profiler.backends.tensorrt.KEPT_BYTES", 2 * first.stat().st_size)
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

    monkeypatch.setattr("profiler.backends.tensorrt._replace", full)
    bench.open().load(standin.conv_model()).run(1)
    assert any("the engine is not kept: [Errno 28]" in line for line in bench.lines)


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


# What goes wrong


def test_the_error_of_a_model_that_cannot_be_parsed_names_the_node(bench):
    bench.world.refuse.add("parse")
    with pytest.raises(MeasureError, match="cannot parse the model: node 7: No importer registered") as caught:
        bench.open().load(standin.conv_model())
    assert (caught.value.code, caught.value.remedy) == ("load", "export it with a lower --opset")


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


def test_a_refused_buffer_is_an_error(bench_of):
    bench = bench_of("8.5.2")
    bench.world.refuse.add("set_tensor_address")
    with pytest.raises(MeasureError, match="refuses the buffer of input"):
        bench.open().load(standin.conv_model())
    assert not bench.cuda.buffers and not bench.cuda.streams


def test_a_refused_inference_is_an_error_and_not_a_fast_one(bench):
    engine = bench.open().load(standin.conv_model())
    bench.world.refuse.add("execute")
    for attempt in (engine.run, engine.device_ms, engine.layer_times_ms):
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
    engine.device_ms(1)

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
