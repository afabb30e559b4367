"""CUDA memory, streams and events behind one small interface: through pycuda where it imports, else through libcudart.

A stock JetPack has neither pycuda nor cuda-python, but always the CUDA runtime library, which ctypes can call.
"""

import atexit
import ctypes
import glob
import os
import re
import subprocess
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from profiler.errors import BackendError, MeasureError

# Names that a loader may know the library by, newest first; JetPack 4 has 10.2, JetPack 5 has 11.0.
SONAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2", "libcudart.so")
FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib", "/usr/local/cuda-*/lib64")

_TO_DEVICE, _FROM_DEVICE = 1, 2  # enum cudaMemcpyKind
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # enum cudaDeviceAttr
_NAME_BYTES = 256  # cudaDeviceProp starts with char name[256] in every version; the rest of it moves
_PROPERTIES_BYTES = 8192  # more than any version of cudaDeviceProp
_CAPTURE_THREAD_LOCAL = 1  # enum cudaStreamCaptureMode: what other threads do meanwhile is not refused
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, and CUDA_ERROR_OUT_OF_MEMORY
_CAPTURE_ERRORS = range(900, 909)  # cudaErrorStreamCaptureUnsupported to -WrongThread: the capture alone is lost

# How a CUDA error that stays with its process reads in the messages of other libraries: cudaGetErrorString's texts,
# the names of both APIs, and the numbers 700 to 719, 214 (uncorrectable ECC) and 999 (unknown).
_STICKY = re.compile(
    r"illegal memory access|illegal[ _]?(?:instruction|address)|invalid[ _]?(?:program counter|pc\b|address[ _]?space)"
    r"|unspecified launch failure|launch_?failure|launch_failed|misaligned.?address|launch timed out|launch_?timeout"
    r"|device-side assert|cudaErrorAssert|CUDA_ERROR_ASSERT|hardware[ _]?stack[ _]?error|global/shared address space"
    r"|uncorrectable ecc|ecc[ _]?uncorrectable|cuda runtime \(unknown error\)|cuda\w*[ _](?:runtime )?(?:failure|error)(?: code)?[ :=(]*(?:7[01]\d|214|999)\b|cudaerror\D{0,3}7[01]\d\b",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(
    r"out.?of.?memory|cudaErrorMemoryAllocation|bad_alloc|MemoryError|insufficient memory|memory is insufficient"
    r"|not enough memory|memory allocation failed|(?:cannot|could not|couldn't) (?:be )?allocated?\b",
    re.IGNORECASE,
)


def is_sticky(text: str) -> bool:
    """Whether a message is about a CUDA error that stays with the process: nothing after it can be trusted."""
    return _STICKY.search(text) is not None


def is_out_of_memory(text: str) -> bool:
    """Whether a message is about a failed allocation. An illegal access is not one."""
    return not is_sticky(text) and _NO_MEMORY.search(text) is not None


class CudaError(MeasureError):
    """A CUDA call failed. Most such errors stay with the process: `fatal` says that it must end."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        out_of_memory = code == _OUT_OF_MEMORY
        super().__init__(
            "run",
            "CUDA: {} failed with error {} ({}): {}".format(call, code, name, text),
            "free memory on the board, or use a smaller batch" if out_of_memory else "see agent.log",
        )
        self.cuda_code = code
        self.fatal = not out_of_memory and code not in _CAPTURE_ERRORS


class Device(NamedTuple):
    """The GPU in use."""

    name: str
    compute_capability: str  # such as "8.7"
    memory_bytes: int


class Cuda:
    """One GPU. Pointers and streams are whole numbers, as TensorRT wants them; events and graphs are the layer's own.

    Implementers guarantee: every failure raises CudaError; nothing is asynchronous but `record`, `launch` and what
    others put on a stream.
    """

    kind = ""  # ctypes or pycuda: part of a fingerprint, since the host's part of a latency differs
    layer = ""  # the same with the library's path, for people
    captures_graphs = False
    runtime_version: Optional[str] = None
    driver_version: Optional[str] = None

    def device(self) -> Device:
        raise NotImplementedError

    def malloc(self, size: int) -> int:
        raise NotImplementedError

    def free(self, pointer: int) -> None:
        raise NotImplementedError

    def to_device(self, pointer: int, content: bytes) -> None:
        """Copy bytes to the device; returns when the copy is complete."""
        raise NotImplementedError

    def from_device(self, pointer: int, size: int) -> bytes:
        raise NotImplementedError

    def create_stream(self) -> int:
        raise NotImplementedError

    def destroy_stream(self, stream: int) -> None:
        raise NotImplementedError

    def synchronize(self, stream: int) -> None:
        raise NotImplementedError

    def create_event(self) -> Any:
        raise NotImplementedError

    def destroy_event(self, event: Any) -> None:
        raise NotImplementedError

    def record(self, event: Any, stream: int) -> None:
        raise NotImplementedError

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Device time between two recorded events; waits for the second."""
        raise NotImplementedError

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        """A CUDA graph of what `enqueue` puts on the stream, which does not run it.

        Raises:
            CudaError: something in it cannot be captured. The stream is usable again.
            Exception: whatever `enqueue` raises; the capture has ended.
        """
        raise NotImplementedError

    def launch(self, graph: Any, stream: int) -> None:
        raise NotImplementedError

    def destroy_graph(self, graph: Any) -> None:
        raise NotImplementedError


def open_cuda(with_graphs: bool = False, with_threads: bool = False) -> Cuda:
    """CUDA on the first GPU.

    Args:
        with_graphs: CUDA graphs are needed; only the runtime library has them here.
        with_threads: several threads use it; the runtime library serves each, and pycuda's context one alone.

    Raises:
        BackendError: there is no CUDA runtime library, or it finds no GPU; the message says which.
    """
    if with_graphs or with_threads:
        return CudaRuntime(load_library())
    try:
        import pycuda.driver as driver  # type: ignore[import-not-found]  # a board has it, this project does not
    except ImportError:
        return CudaRuntime(load_library())
    return PyCuda(driver)


class CudaRuntime(Cuda):
    """The CUDA runtime library through ctypes."""

    kind = "ctypes"

    def __init__(self, library: Any) -> None:
        self._library = library
        self.layer = "ctypes on " + str(getattr(library, "_name", library))
        self.captures_graphs = hasattr(library, "cudaStreamBeginCapture")
        for name in ("cudaGetErrorString", "cudaGetErrorName"):
            getattr(library, name).restype = ctypes.c_char_p
        try:  # without a driver, some versions fail at the first of these and some at the last
            self.runtime_version = _version(self._get("cudaRuntimeGetVersion"))
            self.driver_version = _version(self._get("cudaDriverGetVersion"))
            count = self._get("cudaGetDeviceCount")
        except CudaError as err:
            raise _no_device(self.layer, err)
        if count == 0:
            raise _no_device(self.layer, "it counts 0 devices")
        self._call("cudaSetDevice", ctypes.c_int(0))

    def device(self) -> Device:
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        major, minor = (
            self._get("cudaDeviceGetAttribute", ctypes.c_int(attribute), ctypes.c_int(0))
            for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
        )
        name = properties.raw[:_NAME_BYTES].split(b"\0")[0].decode("utf-8", "replace")
        return Device(name, "{}.{}".format(major, minor), total.value)

    def malloc(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        self._call("cudaFree", ctypes.c_void_p(pointer))

    def to_device(self, pointer: int, content: bytes) -> None:
        source = (ctypes.c_char * len(content)).from_buffer_copy(content)
        self._copy(ctypes.c_void_p(pointer), source, len(content), _TO_DEVICE)

    def from_device(self, pointer: int, size: int) -> bytes:
        target = ctypes.create_string_buffer(size)
        self._copy(target, ctypes.c_void_p(pointer), size, _FROM_DEVICE)
        return target.raw

    def _copy(self, target: Any, source: Any, size: int, kind: int) -> None:
        self._call("cudaMemcpy", target, source, ctypes.c_size_t(size), ctypes.c_int(kind))

    def create_stream(self) -> int:
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def create_event(self) -> Any:
        event = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(event))
        return event

    def destroy_event(self, event: Any) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: Any, stream: int) -> None:
        self._call("cudaEventRecord", event, ctypes.c_void_p(stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        elapsed = ctypes.c_float()
        self._call("cudaEventSynchronize", end)
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed), start, end)
        return elapsed.value

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        handle, graph = ctypes.c_void_p(stream), ctypes.c_void_p()
        self._call("cudaStreamBeginCapture", handle, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            enqueue()
        except Exception:
            if self._library.cudaStreamEndCapture(handle, ctypes.byref(graph)) == 0 and graph.value:
                self._library.cudaGraphDestroy(graph)
            self._library.cudaGetLastError()
            raise
        self._call("cudaStreamEndCapture", handle, ctypes.byref(graph))
        try:
            return self._instantiate(graph)
        finally:
            self._call("cudaGraphDestroy", graph)

    def _instantiate(self, graph: Any) -> Any:
        executable = ctypes.c_void_p()
        if hasattr(
            self._library, "cudaGraphInstantiateWithFlags"
        ):  # from 11.4 on, with these arguments in every version
            self._call("cudaGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        else:  # before 12, cudaGraphInstantiate has a node, a text and its length for errors; from 12 on it has flags
            self._call("cudaGraphInstantiate", ctypes.byref(executable), graph, None, None, ctypes.c_size_t(0))
        return executable

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, ctypes.c_void_p(stream))

    def destroy_graph(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _get(self, call: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        self._call(call, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, call: str, *arguments: Any) -> None:
        code = getattr(self._library, call)(*arguments)
        if code != 0:
            library = self._library
            library.cudaGetLastError()  # clear it: an error that the process survives must not come back with the next call
            name, text = library.cudaGetErrorName(code) or b"?", library.cudaGetErrorString(code) or b"?"
            raise CudaError(call, code, name.decode(), text.decode())


class PyCuda(Cuda):
    """CUDA through pycuda, in the context that the CUDA runtime shares."""

    kind = layer = "pycuda"

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._streams: Dict[int, Any] = {}  # handle -> pycuda's object, which frees the stream when deleted
        self._allocations: Dict[int, Any] = {}
        self.driver_version = _try_version(driver.get_driver_version)
        try:
            driver.init()
            self._device = driver.Device(0)
            # TensorRT works in the primary context; an old pycuda can only make another.
            primary = hasattr(self._device, "retain_primary_context")
            self._context = self._device.retain_primary_context() if primary else self._device.make_context()
        except driver.Error as err:
            raise _no_device(self.layer, err)
        if primary:
            self._context.push()
        atexit.register(self._context.pop)  # pycuda aborts the process if it ends with a context in use

    def device(self) -> Device:
        major, minor = self._call(self._device.compute_capability)
        return Device(self._call(self._device.name), "{}.{}".format(major, minor), self._device.total_memory())

    def malloc(self, size: int) -> int:
        allocation = self._call(self._driver.mem_alloc, size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        self._call(self._allocations.pop(pointer).free)

    def to_device(self, pointer: int, content: bytes) -> None:
        self._call(self._driver.memcpy_htod, pointer, content)

    def from_device(self, pointer: int, size: int) -> bytes:
        target = bytearray(size)
        self._call(self._driver.memcpy_dtoh, target, pointer)
        return bytes(target)

    def create_stream(self) -> int:
        stream = self._call(self._driver.Stream)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        self._call(self._streams[stream].synchronize)

    def create_event(self) -> Any:
        return self._call(self._driver.Event)

    def destroy_event(self, event: Any) -> None:
        pass  # pycuda frees it with the object

    def record(self, event: Any, stream: int) -> None:
        self._call(event.record, self._streams[stream])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self._call(end.synchronize)
        return float(self._call(start.time_till, end))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.Error as err:
            code = _OUT_OF_MEMORY if isinstance(err, self._driver.MemoryError) else -1
            raise CudaError(getattr(function, "__name__", "a call"), code, type(err).__name__, str(err))


def load_library() -> Any:
    """The CUDA runtime library: the copy that TensorRT has loaded already, else what the system has.

    Raises:
        BackendError: none can be loaded; the message lists what was tried.
    """
    tried = []
    for name in loaded() + list(SONAMES) + known_to_loader() + in_folders():
        try:
            return ctypes.CDLL(name)
        except OSError as err:
            tried.append("{} ({})".format(name, err))
    raise BackendError(
        "the CUDA runtime library (libcudart) cannot be loaded; tried " + "; ".join(tried),
        "install it: sudo apt install cuda-cudart-* (it is part of JetPack), or run `sudo ldconfig` if it is installed",
    )


def loaded(maps: str = "/proc/self/maps") -> List[str]:
    """Paths of copies of the library in this process."""
    try:
        with open(maps) as file:
            return sorted(set(re.findall(r"\S*/libcudart\S*\.so\S*", file.read())))
    except OSError:
        return []


def known_to_loader() -> List[str]:
    """Paths of the library in the loader's cache. A board may have it under an unknown number."""
    for command in ("ldconfig", "/sbin/ldconfig"):
        try:
            listing = subprocess.check_output([command, "-p"], stderr=subprocess.DEVNULL).decode("utf-8", "replace")
        except (OSError, subprocess.CalledProcessError):
            continue
        return re.findall(r"libcudart\.so\S* .*=> (\S+)", listing)
    return []


def in_folders() -> List[str]:
    """Paths of the library where CUDA is usually put, newest first."""
    folders = [os.path.join(os.environ[name], "lib64") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [
        path
        for folder in folders + list(FOLDERS)
        for path in sorted(glob.glob(os.path.join(folder, "libcudart.so*")), reverse=True)
    ]


def _no_device(layer: str, reason: Any) -> BackendError:
    return BackendError(
        "CUDA ({}) finds no usable GPU: {}".format(layer, reason),
        "check the driver; on a Jetson the user must be in the group `video`: sudo usermod -aG video $USER",
    )


def _version(number: int) -> str:
    return "{}.{}".format(number // 1000, number % 1000 // 10)


def _try_version(get: Callable[[], int]) -> Optional[str]:
    try:
        return _version(get())
    except Exception:
        return None
