"""The CUDA layer: through ctypes on a compiled stand-in for libcudart and on the real one, and on pycuda's names.

Nothing here ran on a GPU.
"""

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import devices
from profiler import cuda
from profiler.errors import BackendError
from tests.profiler.tensorrt import standin
from tests.profiler.test_manifest import PROTOCOL, manifest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent


def compiled(folder, *options):
    """The path of a compiled stand-in for libcudart."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is needed to compile a stand-in for libcudart")
    path = folder / "libcudart.so.10.2"
    source = HERE / "fake_cudart.c"
    subprocess.run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", *options, "-o", path, source], check=True)
    return path


@pytest.fixture(scope="session")
def fake_cudart(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("cudart"))


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls to the stand-in, in order."""
    path = tmp_path / "calls.log"
    path.touch()
    monkeypatch.setenv("FAKE_CUDART_LOG", str(path))
    return lambda: path.read_text().split()


def opened(path):
    return cuda.CudaRuntime(ctypes.CDLL(str(path)))


def test_the_device_is_described(fake_cudart):
    layer = opened(fake_cudart)
    assert layer.device() == cuda.Device("Fake Tegra", "7.2", 8 * 2**30)
    assert (layer.runtime_version, layer.driver_version) == ("10.2", "11.4")
    assert layer.layer == f"ctypes on {fake_cudart}"


def test_bytes_go_to_the_device_and_come_back(fake_cudart, calls):
    layer = opened(fake_cudart)
    pointer = layer.malloc(5)
    layer.to_device(pointer, b"hello")
    assert layer.from_device(pointer, 5) == b"hello"
    layer.free(pointer)
    assert calls()[-4:] == ["cudaMalloc", "cudaMemcpy", "cudaMemcpy", "cudaFree"]


def test_events_on_a_stream_give_device_time(fake_cudart, calls):
    layer = opened(fake_cudart)
    stream, start, end = layer.create_stream(), layer.create_event(), layer.create_event()
    layer.record(start, stream)
    layer.record(end, stream)
    assert layer.elapsed_ms(start, end) == 0.5
    layer.synchronize(stream)
    layer.destroy_event(start)
    layer.destroy_event(end)
    layer.destroy_stream(stream)
    assert calls()[-5:] == [
        "cudaEventElapsedTime", "cudaStreamSynchronize", "cudaEventDestroy", "cudaEventDestroy", "cudaStreamDestroy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "instantiate"),
    [([], "cudaGraphInstantiateWithFlags"), (["-DBEFORE_11_4"], "cudaGraphInstantiate")],
)
def test_work_on_a_stream_is_captured_as_a_graph_and_launched(tmp_path, calls, options, instantiate):
    layer = opened(compiled(tmp_path, *options))
    assert layer.captures_graphs
    stream = layer.create_stream()
    begun = len(calls())

    graph = layer.capture(stream, lambda: None)
    layer.launch(graph, stream)
    layer.destroy_graph(graph)

    assert calls()[begun:] == [
        "cudaStreamBeginCapture", "cudaStreamEndCapture", instantiate, "cudaGraphDestroy", "cudaGraphLaunch",
        "cudaGraphExecDestroy",
    ]  # fmt: skip


def test_what_cannot_be_captured_costs_the_capture_and_not_the_process(fake_cudart, monkeypatch, calls):
    layer = opened(fake_cudart)
    stream = layer.create_stream()
    monkeypatch.setenv("FAKE_CUDART_FAIL", "cudaStreamEndCapture:901")
    with pytest.raises(cuda.CudaError, match="cudaStreamEndCapture failed with error 901") as caught:
        layer.capture(stream, lambda: None)
    assert not caught.value.fatal
    monkeypatch.delenv("FAKE_CUDART_FAIL")

    def refuse():
        raise KeyError("refused while capturing")

    with pytest.raises(KeyError, match="refused while capturing"):
        layer.capture(stream, refuse)
    assert calls()[-3:] == ["cudaStreamEndCapture", "cudaGraphDestroy", "cudaGetLastError"]


def test_graphs_take_the_runtime_library_even_where_pycuda_imports(fake_cudart, monkeypatch):
    driver = pycuda_driver([])
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(cuda, "load_library", lambda: ctypes.CDLL(str(fake_cudart)))
    assert cuda.open_cuda(with_graphs=True).kind == "ctypes"
    assert (cuda.open_cuda().kind, cuda.open_cuda().captures_graphs) == ("pycuda", False)


@pytest.mark.parametrize(
    "text",
    [
        "an illegal memory access was encountered",
        "Cuda failure: 719",
        "CUDA error: misaligned address",
        "CUDA_ERROR_LAUNCH_FAILED",
        "cudaErrorIllegalAddress",
        "Cuda Runtime (unspecified launch failure)",
        "Cuda failure: 702 (the launch timed out and was terminated)",
        "cudaErrorIllegalInstruction",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "cudaErrorInvalidPc",
        "cudaErrorInvalidAddressSpace",
        "cudaErrorAssert",
        "CUDA_ERROR_ASSERT",
        "cudaErrorHardwareStackError",
        "cudaErrorECCUncorrectable",
        "CUDA error: 214",
        "Cuda Runtime (unknown error)",
    ],
)
def test_errors_that_stay_with_the_process_are_recognised_in_text(text):
    assert cuda.is_sticky(text) and not cuda.is_out_of_memory(text)


@pytest.mark.parametrize(
    "text",
    [
        "Error Code 2: OutOfMemory (no further information)",
        "Cuda Runtime (out of memory)",
        "std::bad_alloc",
        "GPU memory allocation failed",
        "512 bytes could not be allocated",
        "Could not allocate the workspace",
        "Skipping tactic 0x0 due to insufficient memory on requested size of 712 bytes",
    ],
)
def test_failed_allocations_are_recognised_in_text(text):
    assert cuda.is_out_of_memory(text) and not cuda.is_sticky(text)


@pytest.mark.parametrize("text", ["node 700: No importer registered for op: Mystery", "cuda 12.719", "memory access"])
def test_other_messages_are_neither(text):
    assert not cuda.is_out_of_memory(text) and not cuda.is_sticky(text)


def test_a_process_survives_a_failed_allocation(fake_cudart, monkeypatch, calls):
    layer = opened(fake_cudart)
    monkeypatch.setenv("FAKE_CUDART_FAIL", "cudaMalloc:2")
    with pytest.raises(cuda.CudaError) as caught:
        layer.malloc(2**40)
    assert caught.value.message == ("CUDA: cudaMalloc failed with error 2 (cudaErrorMemoryAllocation): out of memory")
    assert "free memory" in caught.value.remedy
    assert not caught.value.fatal
    assert calls()[-1] == "cudaGetLastError"  # the error is taken back, so that the next call is not blamed


def test_any_other_error_ends_the_process(fake_cudart, monkeypatch):
    layer = opened(fake_cudart)
    stream = layer.create_stream()
    monkeypatch.setenv("FAKE_CUDART_FAIL", "cudaStreamSynchronize:700")
    with pytest.raises(cuda.CudaError, match="cudaStreamSynchronize failed with error 700") as caught:
        layer.synchronize(stream)
    assert caught.value.fatal and caught.value.code == "run"


@pytest.mark.parametrize("call", ["cudaRuntimeGetVersion", "cudaGetDeviceCount"])
def test_no_driver_is_a_backend_error_with_a_remedy(fake_cudart, monkeypatch, call):
    monkeypatch.setenv("FAKE_CUDART_FAIL", call + ":35")
    with pytest.raises(BackendError, match="finds no usable GPU: CUDA: " + call) as caught:
        opened(fake_cudart)
    assert "group `video`" in caught.value.remedy


def test_no_device_is_a_backend_error(fake_cudart, monkeypatch):
    monkeypatch.setenv("FAKE_CUDART_NONE", "1")
    with pytest.raises(BackendError, match="it counts 0 devices"):
        opened(fake_cudart)


def test_the_real_library_without_a_gpu_is_an_error():
    """The real libcudart of this machine, if it has one: without a GPU it proves that errors come through."""
    paths = [path for path in cuda.known_to_loader() + cuda.in_folders() if os.path.exists(path)]
    if not paths:
        pytest.skip("this machine has no libcudart")
    code = (
        "import ctypes, sys; from profiler import cuda; from profiler.errors import BackendError\n"
        "try: print(cuda.CudaRuntime(ctypes.CDLL(sys.argv[1])).device())\n"
        "except BackendError as err: print('BackendError', err.message)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, paths[0]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if printed.startswith("Device("):
        pytest.skip("this machine has a GPU: " + printed.strip())
    assert "finds no usable GPU: CUDA: cuda" in printed
    assert "cudaError" in printed


def test_calls_and_numbers_are_as_nvidia_s_header_declares_them():
    folder = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include")
    if not (folder / "cuda_runtime_api.h").exists() or shutil.which("gcc") is None:
        pytest.skip("cuda_runtime_api.h and gcc are needed")
    subprocess.run(["gcc", "-fsyntax-only", "-I", folder, HERE / "cudart_signatures.c"], check=True)


def test_every_call_is_in_the_header_check_and_in_the_stand_in():
    source = Path(cuda.__file__).read_text(encoding="utf-8")
    calls = set(re.findall(r"cuda(?:[A-Z]\w+)(?=[\"(])", source)) - {"cudaDeviceProp"}
    assert len(calls) > 15
    for name in ("cudart_signatures.c", "fake_cudart.c"):
        text = (HERE / name).read_text()
        assert not [call for call in calls if not re.search(call + r"\b", text)]


# Finding the library


def test_the_copy_that_tensorrt_has_loaded_is_preferred(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 0000 08:01 42   /usr/lib/libnvinfer.so.8\n"
        "7f02-7f03 r-xp 0000 08:01 43   /usr/local/cuda-10.2/targets/aarch64-linux/lib/libcudart.so.10.2.300\n"
        "7f04-7f05 r--p 0000 08:01 43   /usr/local/cuda-10.2/targets/aarch64-linux/lib/libcudart.so.10.2.300\n"
    )
    assert cuda.loaded(str(maps)) == ["/usr/local/cuda-10.2/targets/aarch64-linux/lib/libcudart.so.10.2.300"]
    assert cuda.loaded(str(tmp_path / "missing")) == []


def test_the_loader_s_cache_is_searched_for_any_number(monkeypatch):
    listing = (
        b"\tlibcudart.so.42.0 (libc6,AArch64) => /opt/cuda/libcudart.so.42.0\n\tlibc.so.6 (libc6) => /lib/libc.so.6\n"
    )
    monkeypatch.setattr(subprocess, "check_output", lambda *arguments, **options: listing)
    assert cuda.known_to_loader() == ["/opt/cuda/libcudart.so.42.0"]


def test_the_folders_of_cuda_are_searched(tmp_path, monkeypatch):
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart.so.11.0").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda.in_folders()[0] == str(tmp_path / "lib64" / "libcudart.so.11.0")


def test_a_missing_library_is_an_error_that_lists_the_tried_names(monkeypatch):
    monkeypatch.setattr(cuda, "SONAMES", ("libcudart.so.nowhere",))
    for search in ("loaded", "known_to_loader", "in_folders"):
        monkeypatch.setattr(cuda, search, list)
    with pytest.raises(BackendError, match=r"tried libcudart.so.nowhere \(") as caught:
        cuda.load_library()
    assert "part of JetPack" in caught.value.remedy


# pycuda


class PyCudaError(Exception):
    pass


class PyCudaMemoryError(PyCudaError):
    pass


def pycuda_driver(calls, primary=True):
    """The names of pycuda.driver that the layer uses, on host memory; pycuda itself needs a GPU to import."""

    class Allocation:
        def __init__(self, size):
            self.buffer = ctypes.create_string_buffer(size)

        def __int__(self):
            return ctypes.addressof(self.buffer)

        def free(self):
            calls.append("free")

    class Stream:
        handle = 77

        def synchronize(self):
            calls.append("synchronize")

    class Event:
        def record(self, stream):
            assert isinstance(stream, Stream)
            self.at = len(calls)
            calls.append("record")

        def synchronize(self):
            calls.append("event.synchronize")

        def time_till(self, other):
            return float(other.at - self.at)

    class Context:
        def push(self):
            calls.append("push")

        def pop(self):
            pass

    class Device:
        def __init__(self, index):
            assert index == 0
            if primary:
                self.retain_primary_context = Context

        def name(self):
            return "Orin"

        def compute_capability(self):
            return 8, 7

        def total_memory(self):
            return 2**33

        def make_context(self):
            calls.append("make_context")
            return Context()

    def mem_alloc(size):
        if size > 2**30:
            raise PyCudaMemoryError("cuMemAlloc failed: out of memory")
        return Allocation(size)

    return types.SimpleNamespace(
        Error=PyCudaError, MemoryError=PyCudaMemoryError, Device=Device, Stream=Stream, Event=Event,
        init=lambda: calls.append("init"), get_driver_version=lambda: 12020, mem_alloc=mem_alloc,
        memcpy_htod=lambda pointer, content: ctypes.memmove(pointer, content, len(content)),
        memcpy_dtoh=lambda target, pointer: target.__setitem__(slice(None), ctypes.string_at(pointer, len(target))),
    )  # fmt: skip


def test_pycuda_is_used_in_the_context_that_tensorrt_shares():
    calls = []
    layer = cuda.PyCuda(pycuda_driver(calls))
    assert calls == ["init", "push"]
    assert layer.device() == cuda.Device("Orin", "8.7", 2**33)
    assert layer.driver_version == "12.2"

    pointer = layer.malloc(3)
    layer.to_device(pointer, b"abc")
    assert layer.from_device(pointer, 3) == b"abc"
    layer.free(pointer)
    stream, start, end = layer.create_stream(), layer.create_event(), layer.create_event()
    layer.record(start, stream)
    layer.record(end, stream)
    assert (stream, layer.elapsed_ms(start, end)) == (77, 1.0)
    layer.synchronize(stream)
    layer.destroy_stream(stream)
    assert calls[2:] == ["free", "record", "record", "event.synchronize", "synchronize"]


def test_an_old_pycuda_makes_a_context_of_its_own():
    calls = []
    cuda.PyCuda(pycuda_driver(calls, primary=False))
    assert calls == ["init", "make_context"]


def test_errors_of_pycuda_have_the_same_form_as_the_others():
    layer = cuda.PyCuda(pycuda_driver([]))
    with pytest.raises(cuda.CudaError, match="mem_alloc failed with error 2") as caught:
        layer.malloc(2**40)
    assert not caught.value.fatal


def test_pycuda_goes_first_where_it_imports(monkeypatch):
    driver = pycuda_driver([])
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    assert cuda.open_cuda().layer == "pycuda"


# A process of its own, over both stand-ins

TENSORRT = """
import sys
sys.path.insert(0, {root!r})
from tests.profiler.tensorrt import standin
from tests.profiler.test_manifest import PROTOCOL, manifest
world = standin.World()
world.at_once = True  # the stand-in for libcudart cannot tell this one that it is waited for
sys.modules["tensorrt"] = standin.make_module("8.2.1", world)
"""
CODE = """
import ctypes, sys
from profiler import cuda
from profiler.backends.tensorrt import TensorRT
cuda.load_library = lambda: ctypes.CDLL({cudart!r})
backend = TensorRT("fp16", 1, 1, {home!r})
print(backend.fingerprint()["provider"], backend.runtime()["cuda_layer"])
engine = backend.load(sys.stdin.buffer.read())
engine.run(2)
print(engine.device_times(2).gpu_ms > 0, file=sys.stderr)
sys.stdout.flush()
sys.stdout.buffer.write(engine.evaluate(open({inputs!r}, "rb").read()))
"""


def test_the_libraries_are_found_and_numbers_flow_through_ctypes(tmp_path, fake_cudart):
    """`import tensorrt` and libcudart through ctypes: nothing is handed in, as on a board."""
    model, inputs = standin.conv_model(), standin.floats(192)
    (tmp_path / "tensorrt.py").write_text(TENSORRT.format(root=str(ROOT)))
    (tmp_path / "inputs.f32").write_bytes(inputs)
    code = CODE.format(cudart=str(fake_cudart), home=str(tmp_path / "home"), inputs=str(tmp_path / "inputs.f32"))

    finished = subprocess.run(
        [sys.executable, "-c", code], input=model, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(tmp_path)),
        capture_output=True, check=True,
    )  # fmt: skip

    description, _, outputs = finished.stdout.partition(b"\n")
    assert description.decode() == f"Fake Tegra sm_7.2 ctypes on {fake_cudart}"
    assert finished.stderr.splitlines()[-1] == b"True"
    assert outputs == standin.run_directly(model, inputs)


def test_the_measuring_process_reports_that_it_must_end():
    code = (
        "from profiler import cuda, worker\n"
        "def answer(self, request): raise cuda.CudaError('cudaMemcpy', 700, 'cudaErrorIllegalAddress', 'lost')\n"
        "worker.Worker.answer = answer\n"
        "worker.main()"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], input=b'{"do": "rest", "seconds": 0}\n', cwd=ROOT, capture_output=True, check=True
    ).stdout
    answer = json.loads(printed)
    assert answer["error"]["code"] == "run" and "error 700" in answer["error"]["message"]
    assert answer["fatal"] is True


def test_a_process_that_must_end_is_replaced(monkeypatch):
    from profiler import messages, supervisor
    from profiler.errors import MeasureError

    configured = {"fingerprint": {}, "runtime": {}, "runtime_at": None, "needs_build": False}
    answer = {"error": {"code": "run", "message": "lost", "remedy": ""}, "fatal": True}
    code = (
        "import sys\n"
        f"for line in sys.stdin: print({json.dumps(answer)!r} if 'rest' in line else {json.dumps(configured)!r}, flush=True)"
    )
    monkeypatch.setattr(supervisor, "command", lambda: [sys.executable, "-c", code])
    configuration = messages.ConfigureRequest._make(None for _ in messages.ConfigureRequest._fields)
    agent = supervisor.Supervisor(configuration, types.SimpleNamespace(requested=False, fd=os.pipe()[0]), 10.0)
    agent.configure()
    with pytest.raises(MeasureError, match="lost"):
        agent.rest(0.0)
    assert agent._process is None
    agent.configure()
    assert agent._process.poll() is None
    agent.close()


def test_an_agent_builds_an_engine_in_one_process_and_measures_it_in_another(tmp_path, fake_cudart):
    """The whole way, by the agent as boards get it: manifest to journal, nothing handed in. The times are those of host memory."""
    model = standin.conv_model()
    sha256 = hashlib.sha256(model).hexdigest()
    (tmp_path / "tensorrt.py").write_text(TENSORRT.format(root=str(ROOT)))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcudart.so.13").symlink_to(fake_cudart)
    job = tmp_path / "job"
    (job / "models").mkdir(parents=True)
    (job / "models" / f"{sha256}.onnx").write_bytes(model)
    about = manifest(
        backend="tensorrt", precision="fp16", batch=1, sentinels=["conv@3x8-4s1"],
        measurements=[{"key": "conv@3x8-4s1", "model": sha256, "operator": {}}],
        protocol=dict(PROTOCOL, rounds=2, warmup_ms=1.0, min_sample_ms=1.0, timeout_s=60.0),
    )  # fmt: skip
    (job / "manifest.json").write_text(json.dumps(about))
    devices.build_agent_archive(tmp_path / "agent.pyz")

    ended = subprocess.run(
        [sys.executable, tmp_path / "agent.pyz", "run", "--job", job, "--home", tmp_path / "home"],
        env=dict(os.environ, PYTHONPATH=str(tmp_path), LD_LIBRARY_PATH=str(tmp_path / "lib")), capture_output=True, text=True,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in (job / "journal.jsonl").read_text().splitlines()]
    (header,) = [line for line in lines if "fingerprint" in line]
    assert header["fingerprint"]["cuda_layer"] == "ctypes"
    assert header["fingerprint"]["cuda_graph"] is False
    visits = [line for line in lines if line["kind"] == "visit"]
    assert len(visits) == 2 and [visit["error"] for visit in visits] == [None, None]
    assert all(visit["enqueue_ms"] > 0 and visit["gpu_ms"] > 0 for visit in visits)
    assert ended.stderr.count("built ") == 1
