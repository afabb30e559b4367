"""An engine of TensorRT 8 to 11, through its Python package and the CUDA runtime library. Python 3.6."""

import ctypes.util

import numpy as np
import tensorrt as trt

_TO_DEVICE, _FROM_DEVICE = 1, 2  # enum cudaMemcpyKind


class Engine:
    """One float32 input, one float32 output, on the first GPU.

    Args:
        path: of the file that trtexec saved on this board.
        given, made: shapes and names of input and output, as bundle.json has them.
    """

    def __init__(self, path, given, made):
        print("TensorRT", trt.__version__)
        self._cuda = ctypes.CDLL(ctypes.util.find_library("cudart") or "libcudart.so")
        self._logger = trt.Logger(trt.Logger.WARNING)  # which the runtime does not keep alive
        self._runtime = trt.Runtime(self._logger)
        with open(path, "rb") as file:
            self._engine = self._runtime.deserialize_cuda_engine(file.read())
        if self._engine is None:
            raise OSError(f"TensorRT does not load {path}: build it on this board, with this version")
        self._context = self._engine.create_execution_context()
        by_index = hasattr(self._engine, "num_bindings")  # until TensorRT 9
        name_of = self._engine.get_binding_name if by_index else self._engine.get_tensor_name
        self._place = [name_of(place) for place in range(2)].index(given["name"])  # of the input
        self._out = np.zeros(made["shape"], np.float32)
        sizes = [4 * int(np.prod(given["shape"])), self._out.nbytes]
        self._pointers = [ctypes.c_void_p(), ctypes.c_void_p()]
        for pointer, size in zip(self._pointers, sizes):  # noqa: B905  # no strict in Python 3.6
            self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))

    def run(self, batch):
        """The output for one batch."""
        given, made = self._pointers
        size = ctypes.c_size_t(batch.nbytes)
        self._call("cudaMemcpy", given, ctypes.c_void_p(batch.ctypes.data), size, _TO_DEVICE)
        order = [given, made] if self._place == 0 else [made, given]
        if not self._context.execute_v2([pointer.value for pointer in order]):
            raise OSError("TensorRT does not run the engine")
        size = ctypes.c_size_t(self._out.nbytes)
        self._call("cudaMemcpy", ctypes.c_void_p(self._out.ctypes.data), made, size, _FROM_DEVICE)
        return self._out.copy()

    def _call(self, name, *arguments):
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise OSError(f"{name} failed with CUDA error {code}")
