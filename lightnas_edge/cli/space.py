"""`lightnas-edge space`: what can be built."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from lightnas_edge.cli._console import UsageError, duration, print_json, print_result, print_table
from lightnas_edge.cli._options import add_json
from lightnas_edge.files import write_atomic
from lightnas_edge.space import Space, built_in_spaces, load_space
from lightnas_edge.space.describe import LAYER_COLUMNS, layer_rows, network_costs
from lightnas_edge.space.new import NewSpace, as_toml


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "space", help="show a search space, or check your own",
        description="Show a search space: its layers, its operators, what has to be measured. Reports every error in the file.",
        epilog="example: lightnas-edge space show tiny",
    )  # fmt: skip
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the built-in spaces", description="List the built-in spaces.")
    add_json(listing)
    listing.set_defaults(run=_list)
    show = actions.add_parser(
        "show", help="one space", description="Show one space. With --json, as a file that --space accepts."
    )
    show.add_argument("space", metavar="NAME|FILE")
    add_json(show)
    show.set_defaults(run=_show)
    new = actions.add_parser(
        "new", help="begin a space file of your own",
        description="Write a commented space file for --space. The defaults suit the input size; edit the file, then `space show FILE`.",
        epilog="example: lightnas-edge space new mine.toml --input-size 96 --classes 4 --depths 2,3,4",
    )  # fmt: skip
    new.add_argument("file", type=Path, metavar="FILE.toml")
    new.add_argument("--input-size", type=int, required=True, metavar="N", help="side of the square images, in pixels")
    new.add_argument("--classes", type=int, required=True, metavar="N", help="of your images")
    new.add_argument(
        "--depths",
        type=_numbers,
        metavar="LIST",
        help="searchable layers of every stage, such as 2,3,4 (default: by the input size)",
    )
    new.add_argument(
        "--widths",
        type=_numbers,
        metavar="LIST",
        help="channels of every stage, such as 24,40,80 (default: by the input size)",
    )
    new.add_argument(
        "--operators", type=lambda text: tuple(text.split(",")), metavar="LIST",
        help="candidates of every layer (default: mbconv_k3_e3,mbconv_k3_e6,mbconv_k5_e3,mbconv_k5_e6,mbconv_k7_e3,mbconv_k7_e6,skip)",
    )  # fmt: skip
    add_json(new)
    new.set_defaults(run=_new)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between them, found {text!r}") from None


def _list(arguments: argparse.Namespace) -> int:
    spaces = [load_space(name) for name in built_in_spaces()]
    if arguments.json:
        print_json({
            "kind": "spaces",
            "spaces": [
                {
                    "name": space.name, "layers": len(space.layers), "operators": len(space.operators), "networks": space.size,
                    "input_size": space.input_size, "classes": space.classes, "to_measure": len(space.shaped_operators()),
                }
                for space in spaces
            ],
        })  # fmt: skip
        return 0
    for space in spaces:
        print_result(space.summary)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    space = load_space(arguments.space)
    if arguments.json:
        print_json(space.to_json())
        return 0
    print_result(space.summary)
    macs_m, parameters_m = network_costs(space)
    print_result(f"networks: {macs_m} M multiply-accumulates, {parameters_m} M parameters")
    print_result(f"measuring them: {_measuring_time(space)}")
    print_result("operators: " + ", ".join(operator.name for operator in space.operators))
    print_table(LAYER_COLUMNS, layer_rows(space))
    return 0


def _measuring_time(space: Space) -> str:
    """At the defaults of `profile-device`, by engine."""
    from lightnas_edge.cli._measuring import estimated_seconds
    from lightnas_edge.cli.profile import SPACE_ROUNDS
    from lightnas_edge.measuring import MeasurementProtocol, Settings

    operators, protocol = len(space.shaped_operators()), MeasurementProtocol(rounds=SPACE_ROUNDS)
    times = {
        name: duration(estimated_seconds(operators, Settings(backend=backend, protocol=protocol)))
        for name, backend in (("ONNX Runtime", "onnxruntime"), ("TensorRT", "tensorrt"))
    }
    return f"{operators} operators x {SPACE_ROUNDS} rounds, " + ", ".join(
        f"about {time} with {name}" for name, time in times.items()
    )


def _new(arguments: argparse.Namespace) -> int:
    if arguments.file.exists():
        raise UsageError(f"{arguments.file} exists", hint="give another name, or remove it first")
    if arguments.file.suffix != ".toml":
        raise UsageError(
            f"{arguments.file}: a space file ends in .toml", hint=f"for example {arguments.file.stem or 'mine'}.toml"
        )
    question = NewSpace(
        arguments.file.stem,
        arguments.input_size,
        arguments.classes,
        arguments.depths,
        arguments.widths,
        arguments.operators,
    )
    text = as_toml(question)
    space = Space.from_json(
        tomllib.loads(text), source=str(arguments.file)
    )  # nothing is written that could not be read
    write_atomic(arguments.file, text)
    if arguments.json:
        print_json({"kind": "space-file", "file": str(arguments.file), "space": space.to_json()})
        return 0
    print_result(space.summary)
    print_result(f"written: {arguments.file}; next: lightnas-edge space show {arguments.file}")
    return 0
