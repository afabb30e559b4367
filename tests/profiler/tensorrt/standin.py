"""A stand-in for NVIDIA's library, for tests alone: no number from it is a measurement.

Its surface is that of one recorded version (api/*.json): an attribute, method or argument that the version lacks raises
as it would there. Its engine is the ONNX model itself, executed by ONNX Runtime on host memory, so that numbers flow
and can be compared. `World` records what happens, and is where a test breaks things. Runs under Python 3.6 too, as the agent does.
"""

import ctypes
import enum
import json
import struct
import threading
import types
from pathlib import Path

import numpy as np
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
import onnxruntime
from onnx import TensorProto

from profiler.cuda import Cuda, CudaError, Device

API = Path(__file__).with_name("api")
VERSIONS = ["8.0.1", "8.2.1", "8.5.2", "8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"]
NUMPY_TYPES = {
    TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8, TensorProto.INT32: np.int32, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_,
}  # fmt: skip
DATA_TYPES = {
    TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT8: "INT8", TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL",
}  # fmt: skip
LAYER_TYPES = {
    "Conv": "CONVOLUTION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Relu": "ACTIVATION",
    "MatMul": "MATRIX_MULTIPLY",
}  # fmt: skip


def load_api(version):
    return json.loads((API / f"{version}.json").read_text())


class World:
    """What happened, and what must fail."""

    def __init__(self):
        self.calls = []  # (class, member) in order, of TensorRT and of CUDA
        self.used = {}  # (class, member) -> how often
        self.pending = []  # inferences enqueued and not yet synchronised with
        self.at_once = False  # inferences complete when they are enqueued: for a CUDA without synchronisation
        self.refuse = set()  # names of methods that answer None or False
        self.failed_node = 1  # of which the parser complains
        self.say = []  # errors that are logged with a refusal
        self.formats = {}  # input or output -> (name of its format, vectorised dimension, components together)
        self.fast_fp16 = self.fast_int8 = True
        self.networks, self.configs = [], []
        self._lock = threading.Lock()  # streams have a thread each

    def note(self, owner, member):
        self.calls.append((owner, member))
        self.used[owner, member] = self.used.get((owner, member), 0) + 1

    def complete(self):
        with self._lock:
            while self.pending:
                self.pending.pop(0)()


def make_module(version, world):
    """A module with the surface of one version of the bindings."""
    api = load_api(version)
    module = types.ModuleType("tensorrt")
    module.__version__ = api["version"]
    for name, content in api["classes"].items():
        if "members" in content:
            setattr(module, name, enum.IntEnum(name, content["members"]))
    for name, content in api["classes"].items():
        if "members" not in content:
            behaviour = BEHAVIOURS.get(name, Behaviour)
            setattr(module, name, bounded(name, content, behaviour, module, world))
    severity = enum.IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
    module.ILogger.Severity = severity
    return module


def bounded(name, content, behaviour, module, world):
    """A class that has what the recorded one has, and nothing else.

    What it does comes from `behaviour`, whose own members start with an underscore and are free to use.
    """
    methods, properties = content["methods"], content["properties"]
    subclassable = name in ("ILogger", "IProfiler", "IProgressMonitor")

    def check(arguments, keywords, member):
        for signature in methods[member]:
            names = [argument.rstrip("?") for argument in signature]
            given = names[: len(arguments)] + list(keywords)
            needed = [argument for argument in signature if not argument.endswith("?")]
            if (
                len(arguments) <= len(names)
                and sorted(given) == sorted(set(given))
                and set(needed) <= set(given) <= set(names)
            ):
                return
        raise TypeError(f"{name}.{member}(): incompatible function arguments {arguments} {keywords}")

    def method(member):
        def call(self, *arguments, **keywords):
            check(arguments, keywords, member)
            world.note(name, member)
            return getattr(self, "_" + member)(*arguments, **keywords)

        return call

    def readable(member):
        def get(self):
            world.note(name, member)
            return getattr(self, "_get_" + member)() if hasattr(self, "_get_" + member) else self.__dict__["=" + member]

        def put(self, value):
            world.note(name, member)
            self.__dict__["=" + member] = value

        way = properties[member]
        return property(get if "r" in way else None, put if "w" in way else None)

    def initialise(self, *arguments, **keywords):
        if "__init__" not in methods:
            raise TypeError(f"{name}: No constructor defined!")
        check(arguments, keywords, "__init__")
        world.note(name, "__init__")
        self._start(*arguments, **keywords)

    def refuse(self, member, value):
        if not (subclassable or member.startswith("_") or member in properties):
            raise AttributeError(f"'{name}' object has no attribute '{member}'")
        object.__setattr__(self, member, value)

    members = {"_trt": module, "_world": world, "__init__": initialise, "__setattr__": refuse}
    members.update({member: method(member) for member in methods if not member.startswith("__") and not subclassable})
    members.update({member: readable(member) for member in properties})
    return type(name, (behaviour,), members)


def data_type(trt, element):
    """Before TensorRT 10 the parser makes int32 of int64."""
    name = DATA_TYPES[element]
    return trt.DataType["INT32" if name == "INT64" and not hasattr(trt.DataType, name) else name]


def create(cls, *arguments):
    """An object of a class that users cannot construct."""
    made = cls.__new__(cls)
    made._start(*arguments)
    return made


class Behaviour:
    def _start(self):
        pass

    def _refuses(self, member):
        return member in self._world.refuse


class Buffer(bytes):
    """IHostMemory: something with the buffer protocol."""


class Builder(Behaviour):
    def _start(self, logger):
        self._logger = logger
        if self._refuses("Builder"):
            logger.log(self._trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def _get_platform_has_fast_fp16(self):
        return self._world.fast_fp16

    def _get_platform_has_fast_int8(self):
        return self._world.fast_int8

    def _create_network(self, flags=0):
        network = create(self._trt.INetworkDefinition, flags)
        self._world.networks.append(network)
        return network

    def _create_builder_config(self):
        config = create(self._trt.IBuilderConfig)
        self._world.configs.append(config)
        return config

    def _build_serialized_network(self, network, config):
        assert network._parser.alive, "the parser owns the weights: it must outlive the build"
        monitor = config.__dict__.get("=progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Tactics", "Building", 9)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        if config._cache is not None:
            config._cache._content += b"timed;"
        if self._refuses("build_serialized_network"):
            for message in self._world.say:
                self._logger.log(self._trt.ILogger.Severity.ERROR, message)
            return None
        detailed = config.profiling_verbosity == getattr(self._trt.ProfilingVerbosity, "DETAILED", None)
        return Buffer(head(self._trt) + (b"D" if detailed else b"N") + network._model)


class IBuilderConfig(Behaviour):
    def _start(self):
        self._flags, self._cache, self._pools = [], None, {}

    def _set_flag(self, flag):
        self._flags.append(flag.name)

    def _set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    def _create_timing_cache(self, serialized_timing_cache):
        return create(self._trt.ITimingCache, serialized_timing_cache)

    def _set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if cache._content.startswith(b"other"):
            return False
        self._cache = cache
        return True

    def _get_timing_cache(self):
        return self._cache


class ITimingCache(Behaviour):
    def _start(self, content):
        self._content = bytes(content)

    def _serialize(self):
        return Buffer(self._content)


class INetworkDefinition(Behaviour):
    def _start(self, flags):
        self._creation_flags, self._model, self._layers, self._edges = flags, b"", [], ([], [])

    def _get_num_layers(self):
        return len(self._layers)

    def _get_layer(self, index):
        return create(self._trt.ILayer, *self._layers[index])

    def _get_num_inputs(self):
        return len(self._edges[0])

    def _get_num_outputs(self):
        return len(self._edges[1])

    def _get_input(self, index):
        return self._edges[0][index]

    def _get_output(self, index):
        return self._edges[1][index]


class ILayer(Behaviour):
    def _start(self, kind, data_type):
        self._kind, self._data_type = kind, data_type

    def _get_type(self):
        return self._kind

    def _get_num_outputs(self):
        return 1

    def _get_output(self, index):
        tensor = create(self._trt.ITensor)
        tensor.__dict__["=dtype"] = self._data_type
        return tensor


class OnnxParser(Behaviour):
    def _start(self, network, logger):
        explicit = getattr(self._trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        self._network, self._here = network, types.SimpleNamespace(alive=True)
        self._implicit = explicit is not None and not network._creation_flags & 1 << int(explicit)

    def _parse(self, model, path=None):
        if self._implicit or self._refuses("parse"):
            return False
        proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(bytes(model)))
        known = {
            value.name: value.type.tensor_type.elem_type for value in [*proto.graph.value_info, *proto.graph.output]
        }
        layer_type = self._trt.LayerType
        self._network._layers = [
            (
                layer_type[LAYER_TYPES.get(node.op_type, "ELEMENTWISE")],
                data_type(self._trt, known.get(name, TensorProto.FLOAT)),
            )
            for node in proto.graph.node
            for name in node.output
        ]
        inputs, outputs = self._network._edges
        inputs.extend(self._edge(value) for value in proto.graph.input)
        outputs.extend(self._edge(value) for value in proto.graph.output)
        self._network._model, self._network._parser = bytes(model), self._here
        return True

    def _edge(self, value):
        tensor = create(self._trt.ITensor)
        tensor.__dict__["=dtype"] = data_type(self._trt, value.type.tensor_type.elem_type)
        tensor.__dict__["=name"] = value.name
        return tensor

    def _get_num_errors(self):
        return 1

    def _get_error(self, index):
        return create(self._trt.ParserError)

    def __del__(self):
        self._here.alive = False


class ParserError(Behaviour):
    def _node(self):
        return self._world.failed_node

    def _desc(self):
        return "No importer registered for op: Mystery"


class Runtime(Behaviour):
    def _start(self, logger):
        self._logger = logger

    def _deserialize_cuda_engine(self, serialized_engine):
        start = head(self._trt)
        if not serialized_engine.startswith(start) or self._refuses("deserialize_cuda_engine"):
            message = self._world.say or ["The engine plan file is not compatible"]
            self._logger.log(self._trt.ILogger.Severity.ERROR, message[0])
            return None
        content = serialized_engine[len(start) :]
        return create(self._trt.ICudaEngine, content[1:], content[:1] == b"D", self._logger)


def head(trt):
    """How a plan begins."""
    return b"PLAN" + trt.__version__.encode() + b"\0"


class ICudaEngine(Behaviour):
    def _start(self, model, detailed, logger):
        self._detailed, self._logger = detailed, logger
        proto = onnx.load_model_from_string(model)
        self._nodes = [node.name or node.op_type for node in proto.graph.node]
        self._operators = [node.op_type for node in proto.graph.node]
        initial = {value.name for value in proto.graph.initializer}
        self._inputs = [value for value in proto.graph.input if value.name not in initial]
        self._values = [*self._inputs, *proto.graph.output]
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def _value(self, key):
        return self._values[key] if isinstance(key, int) else next(v for v in self._values if v.name == key)

    def _name(self, key):
        return self._value(key).name

    def _shape(self, key):
        return tuple(side.dim_value or -1 for side in self._value(key).type.tensor_type.shape.dim)

    def _kind(self, value):
        """Its type in the engine, as numpy names it."""
        narrow = data_type(self._trt, value.type.tensor_type.elem_type).name == "INT32"
        return np.int32 if narrow else NUMPY_TYPES[value.type.tensor_type.elem_type]

    def _data_type(self, key):
        return data_type(self._trt, self._value(key).type.tensor_type.elem_type)

    def _format(self, key):
        return self._trt.TensorFormat[self._world.formats.get(self._name(key), ("LINEAR", -1, -1))[0]]

    def _vectorized_dim(self, key):
        return self._world.formats.get(self._name(key), ("LINEAR", -1, -1))[1]

    def _components_per_element(self, key):
        return self._world.formats.get(self._name(key), ("LINEAR", -1, -1))[2]

    def _get_num_io_tensors(self):
        return len(self._values)

    _get_num_bindings = _get_num_io_tensors

    def _get_device_memory_size(self):
        return 3 * 2**20

    _get_device_memory_size_v2 = _get_device_memory_size

    def _get_tensor_mode(self, name):
        mode = self._trt.TensorIOMode
        return mode.INPUT if self._value(name) in self._inputs else mode.OUTPUT

    def _binding_is_input(self, index):
        return self._value(index) in self._inputs

    _get_tensor_name = _get_binding_name = _name
    _get_tensor_shape = _get_binding_shape = _shape
    _get_tensor_dtype = _get_binding_dtype = _data_type
    _get_tensor_format = _get_binding_format = _format
    _get_tensor_vectorized_dim = _get_binding_vectorized_dim = _vectorized_dim
    _get_tensor_components_per_element = _get_binding_components_per_element = _components_per_element

    def _create_execution_context(self):
        if self._refuses("create_execution_context"):
            return None
        return create(self._trt.IExecutionContext, self)

    def _create_engine_inspector(self):
        return create(self._trt.EngineInspector, self)


class IExecutionContext(Behaviour):
    def _start(self, engine):
        self._engine, self._addresses = engine, {}
        self._reports_later = False

    def _set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return not self._refuses("set_tensor_address")

    def _execute_async_v3(self, stream_handle):
        return self._execute(stream_handle)

    def _execute_async_v2(self, bindings, stream_handle, input_consumed=None):
        self._addresses = {value.name: bindings[index] for index, value in enumerate(self._engine._values)}
        return self._execute(stream_handle)

    def _execute(self, stream):
        if self._refuses("execute"):
            for message in self._world.say:
                self._engine._logger.log(self._trt.ILogger.Severity.ERROR, message)
            return False
        assert stream
        self._world.pending.append(self._compute)
        if self._world.at_once:
            self._world.complete()
        if self.__dict__.get("=profiler") is not None and self.__dict__.get("=enqueue_emits_profile", True):
            self._report()
        return True

    def _report_to_profiler(self):
        assert not self._world.pending, "layer times are read before the inference is complete"
        self._report()
        return True

    def _report(self):
        for index, node in enumerate(self._engine._nodes):
            self.__dict__["=profiler"].report_layer_time(node, 0.25 * (index + 1))

    def _compute(self):
        engine, feeds = self._engine, {}
        for value in engine._inputs:
            kind, sent = engine._kind(value), NUMPY_TYPES[value.type.tensor_type.elem_type]
            shape = engine._shape(value.name)
            content = ctypes.string_at(self._addresses[value.name], int(np.prod(shape)) * np.dtype(kind).itemsize)
            feeds[value.name] = np.frombuffer(content, kind).reshape(shape).astype(sent)
        outputs = [value for value in engine._values if value not in engine._inputs]
        found = engine._session.run([value.name for value in outputs], feeds)
        for index, value in enumerate(outputs):
            content = found[index].astype(engine._kind(value)).tobytes()
            ctypes.memmove(self._addresses[value.name], content, len(content))


class EngineInspector(Behaviour):
    def _start(self, engine):
        self._engine = engine

    def _get_engine_information(self, format):
        assert format == self._trt.LayerInformationFormat.JSON
        new = int(self._trt.__version__.split(".")[0]) >= 11
        names = [value.name for value in self._engine._values]
        tensors = {"I/O Tensors": [{"Name": name} for name in names]} if new else {"Bindings": names}
        return json.dumps(
            dict({"Layers": [self._layer(index) for index in range(len(self._engine._nodes))]}, **tensors)
        )

    def _layer(self, index):
        name, operator = self._engine._nodes[index], self._engine._operators[index]
        if not self._engine._detailed:
            return name
        old = self._trt.__version__.startswith("8.")
        edge = {"Format/Datatype": "Row major linear FP32" if old else "Float"}
        kind = {"Conv": "CaskConvolution" if old else "conv", "Relu": "PointWiseV2" if old else "kgen"}
        layer = {"Name": name, "LayerType": kind.get(operator, operator), "Inputs": [edge], "Outputs": [edge]}
        return layer if old else dict(layer, Metadata="[ONNX Layer: " + name + "]")


BEHAVIOURS = {
    behaviour.__name__: behaviour
    for behaviour in (
        Builder, IBuilderConfig, ITimingCache, INetworkDefinition, ILayer, OnnxParser, ParserError, Runtime,
        ICudaEngine, IExecutionContext, EngineInspector,
    )
}  # fmt: skip


class HostCuda(Cuda):
    """CUDA's interface on host memory, with real addresses; a stream's work is done when it is synchronised with."""

    kind = layer = "stand-in"
    captures_graphs = True
    runtime_version = "10.2"
    driver_version = "10.2"

    def __init__(self, world, name="NVIDIA Tegra X1", capability="5.3", memory_bytes=4 * 2**30):
        self._world = world
        self._device = Device(name, capability, memory_bytes)
        self.buffers = {}
        self.streams, self.events, self.graphs = set(), set(), []
        self.fail = {}  # call -> error to raise

    def _note(self, call):
        self._world.note("cuda", call)
        if call in self.fail:
            raise self.fail[call]

    def device(self):
        return self._device

    def malloc(self, size):
        self._note("malloc")
        buffer = ctypes.create_string_buffer(max(size, 1))
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, pointer):
        self._note("free")
        del self.buffers[pointer]

    def to_device(self, pointer, content):
        self._note("to_device")
        ctypes.memmove(pointer, bytes(content), len(content))

    def from_device(self, pointer, size):
        self._note("from_device")
        return ctypes.string_at(pointer, size)

    def create_stream(self):
        self._note("create_stream")
        self.streams.add(len(self.streams) + 1)
        return len(self.streams)

    def destroy_stream(self, stream):
        self._note("destroy_stream")
        self.streams.remove(stream)

    def synchronize(self, stream):
        self._note("synchronize")
        assert stream in self.streams
        self._world.complete()

    def create_event(self):
        self._note("create_event")
        event = types.SimpleNamespace(recorded=None)
        self.events.add(id(event))
        return event

    def destroy_event(self, event):
        self._note("destroy_event")
        self.events.remove(id(event))

    def record(self, event, stream):
        self._note("record")
        event.recorded = len(self._world.pending)

    def elapsed_ms(self, start, end):
        self._note("elapsed_ms")
        self._world.complete()
        return 0.25 * (end.recorded - start.recorded)

    def capture(self, stream, enqueue):
        self._note("capture")
        assert stream in self.streams and not self._world.pending, "other work is on the stream"
        enqueue()
        graph, self._world.pending = self._world.pending, []
        self.graphs.append(graph)
        return graph

    def launch(self, graph, stream):
        self._note("launch")
        assert stream in self.streams and graph in self.graphs
        self._world.pending.extend(graph)

    def destroy_graph(self, graph):
        self._note("destroy_graph")
        self.graphs.remove(graph)


def lost_device():
    return CudaError("cudaStreamSynchronize", 700, "cudaErrorIllegalAddress", "an illegal memory access")


def conv_model(batch=1, fp16=False, side=8, channels=3, output_channels=4, seed=0, metadata=None):
    """A convolution with ReLU: float32, or float16 throughout."""
    kind = TensorProto.FLOAT16 if fp16 else TensorProto.FLOAT
    random = np.random.RandomState(seed)
    weights = random.standard_normal((output_channels, channels, 3, 3)).astype(np.float16 if fp16 else np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["input", "weights"], ["middle"], name="conv", pads=[1, 1, 1, 1]),
            onnx.helper.make_node("Relu", ["middle"], ["output"], name="relu"),
        ],
        "conv",
        [onnx.helper.make_tensor_value_info("input", kind, [batch, channels, side, side])],
        [onnx.helper.make_tensor_value_info("output", kind, [batch, output_channels, side, side])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    return checked(graph, metadata)


def checked(graph, metadata=None):
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def run_directly(model, inputs):
    """What ONNX Runtime itself makes of float32 bytes, as float32 bytes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    kind = np.float16 if source.type == "tensor(float16)" else np.float32
    values = np.frombuffer(inputs, np.float32).reshape(source.shape).astype(kind)
    (output,) = session.run(None, {source.name: values})
    return output.astype(np.float32).tobytes()


def floats(count, seed=1):
    return struct.pack(f"<{count}f", *np.random.RandomState(seed).standard_normal(count))


TABLE = np.arange(18, dtype=np.float32).reshape(6, 3)


def token_model():
    """Two inputs of types of their own, two outputs: rows of a table by int64 ids, where a mask of bool says so."""
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="rows"),
            helper.make_node("Where", ["mask", "rows", "zero"], ["kept"], name="kept"),
            helper.make_node("ArgMax", ["kept"], ["largest"], name="largest", axis=1, keepdims=0),
        ],
        "tokens",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, [1, 4, 1]),
        ],
        [
            helper.make_tensor_value_info("kept", TensorProto.FLOAT, [1, 4, 3]),
            helper.make_tensor_value_info("largest", TensorProto.INT64, [1, 3]),
        ],
        [onnx.numpy_helper.from_array(TABLE, "table"), onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    return checked(graph)


def tokens(ids=(5, 0, 2, 1), mask=(True, True, False, True)):
    """The inputs of `token_model` as they are exchanged."""
    return np.array(ids, "<i8").tobytes() + np.array(mask).tobytes()


def check_tokens(outputs):
    """What `token_model` makes of `tokens()`: row 5 is the largest, row 2 is masked."""
    kept = np.frombuffer(outputs[:48], "<f4").reshape(4, 3)
    np.testing.assert_array_equal(kept, [TABLE[5], TABLE[0], [0, 0, 0], TABLE[1]])
    np.testing.assert_array_equal(np.frombuffer(outputs[48:], "<i8"), [0, 0, 0])


def half_inside_model():
    """A convolution in half precision between casts: float32 at its edges, as a network has."""
    weights = np.random.RandomState(0).standard_normal((4, 3, 3, 3)).astype(np.float16)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["input"], ["half"], to=TensorProto.FLOAT16),
            onnx.helper.make_node("Conv", ["half", "weights"], ["middle"], pads=[1, 1, 1, 1]),
            onnx.helper.make_node("Cast", ["middle"], ["output"], to=TensorProto.FLOAT),
        ],
        "half_inside",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 4, 8, 8])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    return checked(graph)


def eight_bit_model(kind=TensorProto.INT8, batch=1, metadata=None):
    """A ReLU with 8-bit values at its edges, as inside a quantised network."""
    scale, zero = np.array(0.05, np.float32), np.array(0, NUMPY_TYPES[kind])
    names = ["scale", "zero"]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("DequantizeLinear", ["input", *names], ["large"]),
            onnx.helper.make_node("Relu", ["large"], ["positive"]),
            onnx.helper.make_node("QuantizeLinear", ["positive", *names], ["output"]),
        ],
        "eight_bit",
        [onnx.helper.make_tensor_value_info("input", kind, [batch, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("output", kind, [batch, 3, 8, 8])],
        [onnx.numpy_helper.from_array(scale, "scale"), onnx.numpy_helper.from_array(zero, "zero")],
    )
    return checked(graph, metadata)


def quantized_model():
    """A ReLU between QuantizeLinear and DequantizeLinear."""
    scale, zero = np.array(0.05, np.float32), np.array(0, np.int8)
    names = ["scale", "zero"]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("QuantizeLinear", ["input", *names], ["small"]),
            onnx.helper.make_node("DequantizeLinear", ["small", *names], ["large"]),
            onnx.helper.make_node("Relu", ["large"], ["output"]),
        ],
        "quantized",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.numpy_helper.from_array(scale, "scale"), onnx.numpy_helper.from_array(zero, "zero")],
    )
    return checked(graph)
