"""Arguments of commands that take any ONNX file, and how it is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import devices
from devices import Connection
from lightnas_edge.cli._console import UsageError
from lightnas_edge.cli._options import board_settings, count, refuse_impossible
from lightnas_edge.measuring import ROUND_S, MeasurementProtocol, Settings
from lightnas_edge.measuring.engines import PRECISIONS
from lightnas_edge.models import Model, check_readable, depends_on_version, read_model


def add_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("model", "any ONNX file, in place of a search space or a run")
    group.add_argument("--model", type=Path, metavar="FILE", help="an ONNX file")
    group.add_argument(
        "--shape", type=shape, action="append", default=[], metavar="NAME:1x3x640x640",
        help="shape of an input with open axes; may be repeated. Of the only input without its name",
    )  # fmt: skip
    return group


def add_model_measuring(group: argparse._ArgumentGroup) -> None:
    """What a search space's commands have already: precision and engine."""
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="that the engine computes in (default: fp32; int8 for a quantised model)",
    )
    group.add_argument("--backend", metavar="NAME", help="engine (default: TensorRT on a Jetson, else ONNX Runtime)")
    group.add_argument("--threads", type=count, metavar="N", help="CPU threads of the engine (default: 1)")
    group.add_argument("--cuda-graph", action="store_true", help="launch each inference as one CUDA graph (TensorRT)")


class Shape(tuple[int, ...]):
    """Sizes of axes; as text `1x3x640x640`."""

    __slots__ = ()

    def __str__(self) -> str:
        return "x".join(map(str, self))


def shape(text: str) -> tuple[str, Shape]:
    """argparse type: `images:1x3x640x640`; without a name, that of the only input. A name may hold colons."""
    name, _, sides = text.rpartition(":")
    parts = sides.split("x")
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected NAME:1x3x640x640, not {text!r}")
    return name, Shape(map(int, parts))


def chosen_model(arguments: argparse.Namespace) -> Model:
    """The ONNX file with the shapes that were given.

    Raises:
        UsageError: an input is given two shapes.
        ModelError: the file cannot be read.
    """
    shapes: dict[str, Shape] = {}
    for name, sides in arguments.shape:
        if name in shapes:
            raise UsageError(
                f"--shape gives {name or 'the input'} twice: {shapes[name]} and {sides}", hint="give it once"
            )
        shapes[name] = sides
    return read_model(arguments.model, shapes=shapes)


def model_settings(
    arguments: argparse.Namespace, connection: Connection, model: Model, rounds: int, *, streams: int | None = None
) -> Settings:
    """How the model is measured on this board.

    Raises:
        UsageError: the engine has no kernels of that precision.
        ModelError: the board's runtime does not read the model.
    """
    backend = arguments.backend or connection.backend
    precision = arguments.precision or ("int8" if model.facts.precision == "int8" else "fp32")
    refuse_impossible(backend, precision)
    check_readable(model.facts, backend, None)
    if depends_on_version(model.facts, backend):
        check_readable(model.facts, backend, _version_of(connection, backend))
    return Settings(
        backend=backend, precision=precision, threads=arguments.threads or 1, cuda_graph=arguments.cuda_graph,
        streams=streams or 1, protocol=MeasurementProtocol(rounds=rounds, extra_rounds=0, round_s=ROUND_S),
        **board_settings(arguments),
    )  # fmt: skip


def _version_of(connection: Connection, backend: str) -> str | None:
    """Of the runtime on the board; None where the backend does not work there, which the measurement reports."""
    fingerprint = devices.probe(connection, backend).to_json()["fingerprint"]
    version = (fingerprint or {}).get("backend_version")
    return None if version is None else str(version)
