"""ONNX Runtime on a GPU: what the backend requests, executed by the CPU provider. Nothing ran on a GPU."""

import sys
import types

import onnxruntime
import pytest

from lightnas_edge import graph
from lightnas_edge.graph import writer
from lightnas_edge.measuring.engines import PRECISIONS_OF
from lightnas_edge.space import load_space
from profiler import backends
from profiler.backends import onnxruntime as ort_backend
from profiler.backends.tensorrt import builder, network
from profiler.errors import BackendError, MeasureError
from tests.profiler.tensorrt import standin


def gpu_build(requests, unused=False):
    """ONNX Runtime as a GPU build looks, executing on the CPU."""

    class Session(onnxruntime.InferenceSession):
        def __init__(self, model, options, providers):
            requests.append((options, providers))
            asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
            self.name = "CPUExecutionProvider" if unused else asked
            super().__init__(model, onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [self.name, "CPUExecutionProvider"]

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(content, place, index):
            requests.append(place)
            return onnxruntime.OrtValue.ortvalue_from_numpy(content, "cpu", index)

    class Options(onnxruntime.SessionOptions):
        pass

    return types.SimpleNamespace(
        __version__="1.18.0", SessionOptions=Options, InferenceSession=Session, OrtValue=OrtValue,
        disable_telemetry_events=lambda: None,
        get_available_providers=lambda: [
            "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider",
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "precision", "provider"),
    [
        ("onnxruntime-cuda", "fp32", "CUDAExecutionProvider"),
        ("onnxruntime-tensorrt", "fp32",
         ("TensorrtExecutionProvider", {"trt_fp16_enable": "0", "trt_engine_cache_enable": "0"})),
        ("onnxruntime-tensorrt", "fp16",
         ("TensorrtExecutionProvider", {"trt_fp16_enable": "1", "trt_engine_cache_enable": "0"})),
    ],
)  # fmt: skip
def test_the_provider_is_requested_alone_with_its_tensors_on_the_gpu(monkeypatch, backend, precision, provider):
    requests = []
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu_build(requests))
    opened = backends.open_backend(backend, precision, 1, 1, "/nowhere")

    engine = opened.load(standin.conv_model())
    engine.run(1)

    options, providers = requests[0]
    assert providers == [provider]
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert requests[1:] == ["cuda", "cuda"]
    assert opened.fingerprint()["backend"] == backend
    assert opened.fingerprint()["provider"] == (provider if isinstance(provider, str) else provider[0])
    assert opened.fingerprint()["precision"] == precision


def test_an_unused_provider_is_an_error_and_not_a_slow_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu_build([], unused=True))
    opened = backends.open_backend("onnxruntime-cuda", "fp32", 1, 1, "/nowhere")
    with pytest.raises(MeasureError, match="does not use CUDAExecutionProvider but CPUExecutionProvider"):
        opened.load(standin.conv_model())


def test_a_build_without_the_provider_lists_those_it_has():
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider; it has .*CPUExecutionProvider") as caught:
        backends.open_backend("onnxruntime-cuda", "fp32", 1, 1, "/nowhere")
    assert "onnxruntime-gpu" in caught.value.remedy


def test_precisions_that_a_provider_lacks_are_refused():
    with pytest.raises(BackendError, match="onnxruntime-tensorrt computes in fp32 or fp16, not in int8"):
        backends.open_backend("onnxruntime-tensorrt", "int8", 1, 1, "/nowhere")


@pytest.mark.parametrize(
    ("text", "fatal"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", True),
        ("Failed to allocate memory for requested buffer of size 1024", False),
    ],
)
def test_a_lost_device_ends_the_process_and_another_error_does_not(monkeypatch, text, fatal):
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu_build([]))
    engine = backends.open_backend("onnxruntime-cuda", "fp32", 1, 1, "/nowhere").load(standin.conv_model())

    def fail(binding):
        raise RuntimeError(text)

    monkeypatch.setattr(engine._session, "run_with_iobinding", fail)
    with pytest.raises(MeasureError, match="ONNX Runtime cannot run the model") as caught:
        engine.run(1)
    assert (caught.value.code, caught.value.fatal) == ("run", fatal)


@pytest.mark.parametrize(
    ("written", "precision", "message"),
    [
        (graph.Arithmetic("fp16"), "fp32", "the model computes in fp16, and the job measures fp32"),
        (
            graph.Arithmetic("int8", "tensorrt"),
            "int8",
            "the model computes in int8 tensorrt, and the job measures int8 ort",
        ),
        (graph.Arithmetic("int8", "ort"), "fp32", "the model has QuantizeLinear, and the job measures fp32"),
        (graph.Arithmetic(), "int8", "the model has no QuantizeLinear, and the job measures int8"),
    ],
)
def test_a_model_in_another_arithmetic_is_not_measured(written, precision, message):
    shaped = load_space("tiny").stem
    model = graph.model_bytes(graph.operator_model(shaped, arithmetic=written))

    with pytest.raises(MeasureError, match=message):
        backends.open_backend("onnxruntime", precision, 1, 1, "/nowhere").load(model)


def test_host_and_agent_agree_on_precisions_and_on_the_keys_of_a_models_metadata():
    """They share no code: the agent is packed alone."""
    agent = {name: kind[2] for name, kind in ort_backend.KINDS.items()} | {"tensorrt": builder.PRECISIONS}
    assert {name: PRECISIONS_OF[name] for name in agent} == agent
    assert set(PRECISIONS_OF) == set(backends.names())
    assert ort_backend.ARITHMETIC == writer.ARITHMETIC
    assert network.INNER_EDGES == graph.build.INNER_EDGES
