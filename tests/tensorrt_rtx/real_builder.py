"""NVIDIA's own builder, without a GPU: what it makes of a model, read from its log."""

import collections
import re
from typing import NamedTuple

import tensorrt_rtx_bindings as trt

from profiler.backends.tensorrt import adaptors, builder, layers

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: .*, Metadata: (?P<metadata>.*)",
    re.DOTALL,
)
_GENERATED = re.compile(r"__myl_([A-Za-z]+)_myl")
_MOVES = re.compile(
    r"(?:Move|Tran|Resh|Slic|Conc)+"
)  # a generated kernel of these alone moves values, and computes nothing
_CONVOLUTIONS = ("correlation",)
_PRECISIONS = {"Float": "fp32", "Half": "fp16", "Int8": "int8"}


class Kernel(NamedTuple):
    name: str
    is_convolution: bool
    is_reformat: bool
    precision: str  # of the first input
    layer: layers.Layer  # as the inspector's list has it


class Built(NamedTuple):
    plan: bytes
    kernels: list[Kernel]
    activation_bytes: int

    @property
    def reformats(self):
        return sum(kernel.is_reformat for kernel in self.kernels)

    @property
    def convolutions(self):
        """Precision -> number."""
        return dict(collections.Counter(kernel.precision for kernel in self.kernels if kernel.is_convolution))


def recording_log():
    class Log(type(adaptors.make_log(trt))):
        """The agent's log, which also keeps what the agent does not show."""

        def __init__(self):
            super().__init__()
            self.everything = []

        def log(self, severity, msg):
            self.everything.append(msg)
            super().log(severity, msg)

    return Log()


LOG = recording_log()  # the library keeps a pointer to the first it is given


def build(model, precision, memory_bytes=4 * 2**30, any_model=False):
    """Build with the agent's own code, as on a board with this much memory. Raises MeasureError as it does there."""
    workspace_bytes = builder.usual_workspace_bytes(memory_bytes, any_model)
    settings = builder.BuildSettings.choose(trt, precision, workspace_bytes)
    LOG.everything.clear()
    plan = builder.build(trt, LOG, model, settings, None, lambda line: None)
    listed = [message for message in LOG.everything if message.startswith("Layers:")]
    assert len(listed) == 1, "the builder lists its layers once"
    used = [re.match(r"Total Activation Memory: (\d+) bytes", message) for message in LOG.everything]
    (activation_bytes,) = (int(found[1]) for found in used if found)
    return Built(
        plan, [_kernel(line) for line in listed[0].splitlines() if line.startswith("Name: ")], activation_bytes
    )


def _kernel(line):
    found = _LAYER.match(line)
    assert found, f"a layer in a form that is not known: {line[:200]}"
    generated = _GENERATED.match(found["name"])
    types = re.findall(r"Datatype: (\w+)", found["inputs"])
    return Kernel(
        name=found["name"],
        is_convolution=found["type"] in _CONVOLUTIONS,
        is_reformat=bool(generated and _MOVES.fullmatch(generated[1])),
        precision=_PRECISIONS.get(types[0], types[0]) if types else "none",
        layer=layers.Layer(
            name=found["name"],
            kind=None,
            precision=None,
            ms=None,
            tactic=None,
            type=found["type"],
            onnx_layers=found["metadata"],
        ),
    )
