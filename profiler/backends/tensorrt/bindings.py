"""Inputs and outputs of an engine: by name (TensorRT 8.5 and later) or by index, whichever the library has."""

import functools
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from profiler.backends.tensorrt import values
from profiler.errors import MeasureError


class Port(NamedTuple):
    """An input or output of an engine."""

    name: str
    is_input: bool
    shape: Tuple[int, ...]
    element: str  # float32, float16, int8 or uint8
    size: int  # bytes, the padding of a vectorised format included
    is_linear: bool  # False: channels are packed or last, so bytes are not in the order of the shape


class Attachment:
    """How inputs and outputs are attached to a context."""

    ports: List[Port] = []

    def attach(self, context: Any, pointers: List[int], stream: int) -> Callable[[], bool]:
        """Bind the buffers; what to call for one inference on the stream, which returns whether TensorRT took it."""
        raise NotImplementedError


class Tensors(Attachment):
    """Inputs and outputs by name: TensorRT 8.5 and later."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self.ports: List[Port] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            packing = engine.get_tensor_vectorized_dim(name), engine.get_tensor_components_per_element(name)
            shape, data_type = engine.get_tensor_shape(name), engine.get_tensor_dtype(name)
            linear = engine.get_tensor_format(name) == trt.TensorFormat.LINEAR
            self.ports.append(_port(trt, name, is_input, shape, data_type, packing, linear))

    def attach(self, context: Any, pointers: List[int], stream: int) -> Callable[[], bool]:
        for port, pointer in zip(self.ports, pointers):
            if not context.set_tensor_address(port.name, pointer):
                raise MeasureError("load", "TensorRT refuses the buffer of {}".format(port.name), "see agent.log")
        return functools.partial(context.execute_async_v3, stream_handle=stream)


class Bindings(Attachment):
    """Inputs and outputs by index: before TensorRT 8.5."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self.ports: List[Port] = []
        for index in range(engine.num_bindings):
            name, is_input = engine.get_binding_name(index), engine.binding_is_input(index)
            packing = engine.get_binding_vectorized_dim(index), engine.get_binding_components_per_element(index)
            shape, data_type = engine.get_binding_shape(index), engine.get_binding_dtype(index)
            linear = engine.get_binding_format(index) == trt.TensorFormat.LINEAR
            self.ports.append(_port(trt, name, is_input, shape, data_type, packing, linear))

    def attach(self, context: Any, pointers: List[int], stream: int) -> Callable[[], bool]:
        return functools.partial(context.execute_async_v2, bindings=list(pointers), stream_handle=stream)


def has_tensors(trt: Any) -> bool:
    """Whether inputs and outputs go by name."""
    return hasattr(trt.ICudaEngine, "num_io_tensors") and hasattr(trt.IExecutionContext, "execute_async_v3")


def attachment_of(trt: Any, engine: Any, batch: Optional[int]) -> Attachment:
    """The inputs and outputs of an engine.

    Raises:
        MeasureError: code `load`: a type that cannot be filled, a shape that is not fixed, another batch size.
    """
    attachment: Attachment = (Tensors if has_tensors(trt) else Bindings)(trt, engine)
    for port in attachment.ports:
        if any(side < 0 for side in port.shape):
            raise MeasureError("load", "the shape of {} is not fixed: {}".format(port.name, list(port.shape)))
        if batch is not None and port.shape[:1] != (batch,):
            raise MeasureError(
                "load",
                "{} has shape {}; this job's batch size is {}".format(port.name, list(port.shape), batch),
            )
    return attachment


def _port(
    trt: Any, name: str, is_input: bool, shape: Any, data_type: Any, packing: Tuple[int, int], linear: bool
) -> Port:
    sides = tuple(int(side) for side in shape)
    element = values.element_type(trt, data_type)
    if element is None:
        raise MeasureError("load", "{} is {}, not {}".format(name, data_type, ", ".join(sorted(values.BYTES))))
    size = values.BYTES[element]
    packed, together = packing
    for index, side in enumerate(sides):
        # A vectorised format packs `together` channels, so their number is rounded up; -1 where it packs none.
        size *= -(-side // together) * together if index == packed and together > 1 else side
    return Port(name, is_input, sides, element, size, linear)
