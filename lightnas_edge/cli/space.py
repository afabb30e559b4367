"""`lightnas-edge space`: what can be built."""

from __future__ import annotations

import argparse

from lightnas_edge.cli._console import print_json, print_result, print_table
from lightnas_edge.cli._options import add_json
from lightnas_edge.space import Space, built_in_spaces, load_space


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
        print_result(_summary(space))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    space = load_space(arguments.space)
    if arguments.json:
        print_json(space.to_json())
        return 0
    print_result(_summary(space))
    print_result("operators: " + ", ".join(operator.name for operator in space.operators))
    rows = [
        [f"{index}", f"{layer.in_channels}", f"{layer.out_channels}", f"{layer.input_size}", f"{layer.stride}"]
        for index, layer in enumerate(space.layers)
    ]
    print_table(["layer", "in", "out", "side", "stride"], rows)
    return 0


def _summary(space: Space) -> str:
    distinct = len(space.shaped_operators())
    return (
        f"{space.name}: {len(space.layers)} searchable layers x {len(space.operators)} operators = {space.size:.3g} networks, "
        f"{space.input_size}x{space.input_size} input, {space.classes} classes; {distinct} operators to measure"
    )
