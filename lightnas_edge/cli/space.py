"""`lightnas-edge space`: what can be built."""

from __future__ import annotations

import argparse

from lightnas_edge.cli._console import print_json, print_table, say
from lightnas_edge.space import built_in_spaces, load_space


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "space", help="show a search space, or check your own",
        description="Show a search space: its layers, its operators, what has to be measured. A file with faults is told all of them.",
        epilog="example: lightnas-edge space show tiny",
    )  # fmt: skip
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="the spaces that are built in").set_defaults(run=_list)
    show = actions.add_parser("show", help="one space")
    show.add_argument("space", metavar="NAME|FILE")
    show.add_argument("--json", action="store_true", help="the space as a file that --space accepts")
    show.set_defaults(run=_show)


def _list(_: argparse.Namespace) -> int:
    for name in built_in_spaces():
        say(_summary(name))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    space = load_space(arguments.space)
    if arguments.json:
        print_json(space.to_json())
        return 0
    say(_summary(arguments.space))
    say("operators: " + ", ".join(operator.name for operator in space.operators))
    rows = [
        [f"{index}", f"{layer.in_channels}", f"{layer.out_channels}", f"{layer.input_size}", f"{layer.stride}"]
        for index, layer in enumerate(space.layers)
    ]
    print_table(["layer", "in", "out", "side", "stride"], rows)
    return 0


def _summary(name: str) -> str:
    space = load_space(name)
    distinct = len(space.shaped_operators())
    return (
        f"{space.name}: {len(space.layers)} searchable layers x {len(space.operators)} operators = {space.size:.3g} networks, "
        f"{space.input_size}x{space.input_size} input, {space.classes} classes; {distinct} operators to measure"
    )
