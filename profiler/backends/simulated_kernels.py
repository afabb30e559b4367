"""The kernels of an ONNX model on a virtual board: what is fused, and the arithmetic and the traffic of each.

A convolution with its Clip and its Add is one kernel, as in TensorRT. Reshapes, and what does not depend on the inputs,
cost nothing. An operator without a formula costs its traffic.
"""

from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from profiler.backends import elements, onnxruntime, ran_in
from profiler.errors import MeasureError

FUSED = ("Add", "BatchNormalization", "Clip", "HardSigmoid", "Relu", "Sigmoid")  # into the convolution before them
FREE = (
    "Cast", "Constant", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Shape", "Squeeze",
    "Unsqueeze",
)  # fmt: skip
DEPTHWISE_EFFICIENCY = 0.2  # of the peak


class Tensor(NamedTuple):
    name: str
    shape: Tuple[int, ...]
    is_float: bool


class Kernel(NamedTuple):
    macs: float  # multiply-accumulates at peak efficiency
    values: float  # read and written
    type: str  # of its first node
    nodes: Tuple[str, ...]  # names of the model's nodes
    inputs: Tuple[Tensor, ...]
    outputs: Tuple[Tensor, ...]
    is_quantised: bool  # its data, and its weights where it has some, come from DequantizeLinear


class Kernels(NamedTuple):
    kernels: List[Kernel]
    peak_values: int  # weights, and the most values that a node reads and writes
    computes_in: FrozenSet[str]  # fp16, fp32 or both: convolutions and matrix products; all nodes where there are none


def read_kernels(model: bytes, batch: Optional[int]) -> Kernels:
    """The kernels of a model, after fusion.

    Args:
        batch: first side of the first input; None: any.

    Raises:
        MeasureError: this is no model of that batch size, or the shape of a tensor is not known.
        ImportError: there is no package onnx.
    """
    import onnx

    try:
        loaded = onnx.load_model_from_string(model)
        _forget_open_shapes(loaded.graph)
        graph = onnx.shape_inference.infer_shapes(loaded, data_prop=True).graph
    except Exception as err:
        raise MeasureError(
            "load", "this is no ONNX model: {}".format((str(err).strip() or type(err).__name__).splitlines()[0][:200])
        )
    reader = _Reader(graph, onnx.TensorProto)
    open_shapes = reader.open_shapes()
    if open_shapes:
        reader.add_shapes(_shapes_by_running(loaded, open_shapes, onnx.ValueInfoProto))
    return reader.read(batch)


def _forget_open_shapes(graph: Any) -> None:
    """A side with a name stays one by inference: without the shapes that have some, it finds their numbers."""
    for info in list(graph.value_info) + list(graph.output):
        described = info.type.tensor_type
        if not all(side.HasField("dim_value") for side in described.shape.dim):
            described.ClearField("shape")


def _shapes_by_running(model: Any, names: List[str], value_info: Any) -> Dict[str, Sequence[int]]:
    """Shapes that follow from computed values, from one inference on this machine; none where it cannot run the model."""
    outputs = {info.name for info in model.graph.output}
    model.graph.output.extend(value_info(name=name) for name in names if name not in outputs)
    try:
        return onnxruntime.shapes_by_running(model.SerializeToString(), names)
    except Exception:  # whatever it is, the shapes stay unknown, and the error about them says so
        return {}


class _Reader:
    def __init__(self, graph: Any, types: Any) -> None:
        self._graph = graph
        self._names = {types.FLOAT: "fp32", types.FLOAT16: "fp16"}
        self._floats = (types.FLOAT, types.FLOAT16, types.DOUBLE, types.BFLOAT16)
        self._shapes: Dict[str, List[Optional[int]]] = {}
        self._kinds: Dict[str, int] = {}
        for tensor in graph.initializer:
            self._shapes[tensor.name], self._kinds[tensor.name] = list(tensor.dims), tensor.data_type
        self._weights = set(self._shapes)
        self._inputs = [info.name for info in graph.input if info.name not in self._weights]
        for info in list(graph.input) + list(graph.value_info) + list(graph.output):
            described = info.type.tensor_type
            self._kinds.setdefault(info.name, described.elem_type)
            if described.HasField("shape"):
                sides = [side.dim_value if side.HasField("dim_value") else None for side in described.shape.dim]
                self._shapes.setdefault(info.name, sides)
        self._varying = set(self._inputs)
        self._readers: Dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                self._readers[name] = self._readers.get(name, 0) + 1
            if self._varying.intersection(node.input):
                self._varying.update(node.output)

    def open_shapes(self) -> List[str]:
        """The outputs of nodes of which inference does not say the shape."""
        names = [name for node in self._graph.node for name in node.output if name]
        return [name for name in names if None in self._shapes.get(name, [None])]

    def add_shapes(self, shapes: Dict[str, Sequence[int]]) -> None:
        self._shapes.update((name, list(sides)) for name, sides in shapes.items())

    def read(self, batch: Optional[int]) -> Kernels:
        if batch is not None:
            first = self._shapes.get(self._inputs[0], []) if self._inputs else []
            if first[:1] != [batch]:
                raise MeasureError("load", "the input has shape {}; this job's batch size is {}".format(first, batch))
        for name in self._inputs:
            self._size(name)
        dequantised = {name for node in self._graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        kernels: List[Kernel] = []
        made_by: Dict[str, int] = {}  # tensor -> the convolution that it may still be fused into
        for node in self._graph.node:
            if node.op_type in FREE or not self._varying.intersection(node.input):
                continue
            label, output = node.name or node.output[0], node.output[0]
            tail = [name for name in node.input if name in made_by and self._readers[name] == 1]
            if node.op_type in FUSED and tail:
                index = made_by[output] = made_by[tail[-1]]
                others = [name for name in node.input if name and name != tail[-1]]
                kernels[index] = kernels[index]._replace(
                    values=kernels[index].values + sum(map(self._size, others)),
                    nodes=kernels[index].nodes + (label,),
                    inputs=kernels[index].inputs + self._tensors(others),
                    outputs=self._tensors(node.output),
                )
                continue
            if node.op_type == "Conv":
                made_by[output] = len(kernels)
            values = sum(map(self._size, filter(None, [output, *node.input])))
            inputs, outputs = self._tensors(node.input), self._tensors(node.output)
            read = node.input[: 2 if ran_in.is_heavy(node.op_type) else 1]
            kernels.append(
                Kernel(
                    self._macs(node),
                    float(values),
                    node.op_type,
                    (label,),
                    inputs,
                    outputs,
                    dequantised.issuperset(read),
                )
            )
        return Kernels(kernels, self._peak_values(), self._computes_in())

    def _computes_in(self) -> FrozenSet[str]:
        heavy = [node for node in self._graph.node if ran_in.is_heavy(node.op_type)]
        kinds = {self._kinds.get(name) for node in heavy or self._graph.node for name in node.output}
        return frozenset(self._names[kind] for kind in kinds if kind in self._names)

    def _macs(self, node: Any) -> float:
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = self._shape(node.input[1])
            result = node.output[0] if node.op_type == "Conv" else node.input[0]
            macs = float(self._size(result) * elements.count(weight[1:]))
            if weight[1] == 1 and weight[0] > 1 and elements.count(weight[2:]) > 1:
                macs /= DEPTHWISE_EFFICIENCY
            return macs
        if node.op_type in ("Gemm", "MatMul"):
            transposed = any(each.name == "transA" and each.i for each in node.attribute)
            return float(self._size(node.output[0]) * self._shape(node.input[0])[0 if transposed else -1])
        return 0.0

    def _shape(self, name: str) -> List[int]:
        sides = self._shapes.get(name)
        known = [side for side in sides or [] if side is not None]
        if sides is None or len(known) != len(sides):
            raise MeasureError(
                "load",
                "the shape of {} is not known: {}".format(
                    name, "nothing is known of it" if sides is None else ["?" if one is None else one for one in sides]
                ),
                "fix the shapes of the inputs (--shape); a virtual board cannot time a model with shapes that depend "
                "on values",
            )
        return known

    def _size(self, name: str) -> int:
        return elements.count(self._shape(name))

    def _tensors(self, names: Any) -> Tuple[Tensor, ...]:
        return tuple(
            Tensor(name, tuple(self._shape(name)), self._kinds.get(name) in self._floats)
            for name in names
            if name and name in self._shapes
        )

    def _peak_values(self) -> int:
        constants = [name for node in self._graph.node for name in node.output if name not in self._varying]
        weights = self._weights | {name for name in constants if name in self._shapes}
        moving = [
            sum(self._size(name) for name in set(node.input) | set(node.output) if name in self._varying and name in self._shapes)
            for node in self._graph.node
        ]  # fmt: skip
        return sum(self._size(name) for name in weights) + max(moving, default=0)
