"""`lightnas-edge range`: which latencies a space can reach under a predictor."""

from __future__ import annotations

import argparse
from pathlib import Path

import luts
from lightnas_edge.cli._console import ms, note, print_json, say
from lightnas_edge.cli._options import add_classes, add_space, chosen_space


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "range", help="what a space can reach: cheapest, median, dearest",
        description="The cheapest network of a space, the median of random ones and the dearest, under a predictor. A budget below "
        "the cheapest cannot be kept by any network.",
        epilog="example: lightnas-edge range --predictor tiny.predictor.json",
    )  # fmt: skip
    add_space(parser, required=False)
    add_classes(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--predictor", type=Path, metavar="FILE", help="from `lightnas-edge fit`")
    source.add_argument("--lut", type=Path, metavar="FILE", help="a table alone, needs --space; or xavier-lightnas-b8")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.predictor import load_predictor, lut_predictor, reachable_range, reference_predictor

    space = None if arguments.space is None else chosen_space(arguments)
    if arguments.lut and reference_predictor(arguments.lut):
        arguments.predictor = arguments.lut  # tables that come with the project are predictors already
    if arguments.predictor:
        predictor = load_predictor(arguments.predictor, space)
    elif space is None:
        note("--lut needs --space: a table does not say what space it is to serve")
        return 2
    else:
        predictor = lut_predictor(space, luts.read(arguments.lut))
    reach = reachable_range(predictor)
    ends = {"cheapest": (reach.lowest, reach.cheapest), "dearest": (reach.highest, reach.dearest)}
    beyond = {
        name: bool(predictor.outside(network.one_hot(predictor.space)[None])[0]) for name, (_, network) in ends.items()
    }
    if arguments.json:
        print_json({
            "kind": "range", "space": predictor.space.name, "batch": predictor.batch, "metric": predictor.metric,
            "median": {predictor.metric: reach.median},
            **{
                name: {predictor.metric: value, "outside": beyond[name], "architecture": network.to_json()}
                for name, (value, network) in ends.items()
            },
        })  # fmt: skip
        return 0
    say(f"{predictor.space.name}, batch {predictor.batch}, predicted:")
    unit = predictor.unit
    say(f"cheapest  {ms(reach.lowest)} {unit}  {reach.cheapest}")
    say(f"median    {ms(reach.median)} {unit}  of random networks")
    say(f"dearest   {ms(reach.highest)} {unit}  {reach.dearest}")
    if any(beyond.values()):
        named = " and ".join(name for name, is_out in beyond.items() if is_out)
        note(f"{named}: outside what was measured, so its value is a guess")
    return 0
