"""`lightnas-edge range`: the smallest and the largest prediction of a space."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import luts
from lightnas_edge.cli._console import UsageError, info, ms, print_json, print_result
from lightnas_edge.cli._options import add_classes, add_json, add_space, chosen_space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor
    from lightnas_edge.space import Space


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "range", help="lowest, median and highest prediction of a space",
        description="The network of a space with the lowest prediction, the median of random ones, and the one with the highest. No "
        "network keeps a budget below the lowest.",
        epilog="example: lightnas-edge range --predictor tiny.predictor.json",
    )  # fmt: skip
    add_space(parser, required=False)
    add_classes(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--predictor", type=Path, metavar="FILE", help="from `lightnas-edge fit`")
    source.add_argument("--lut", type=Path, metavar="FILE", help="a table alone, needs --space; or xavier-lightnas-b8")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.predictor import load_predictor, lut_predictor, reachable_range, reference_predictor

    energy = None
    space = None if arguments.space is None else chosen_space(arguments)
    if arguments.lut and reference_predictor(arguments.lut):
        arguments.predictor = arguments.lut  # tables that come with the project are predictors already
    if arguments.predictor:
        predictor = load_predictor(arguments.predictor, space)
    elif space is None:
        raise UsageError("--lut needs --space: a table does not name a search space")
    else:
        table = luts.read(arguments.lut)
        predictor = lut_predictor(space, table)
        energy = _energy_of(space, table)
    reach = reachable_range(predictor)
    ends = {
        "lowest": (reach.lowest, reach.lowest_architecture),
        "highest": (reach.highest, reach.highest_architecture),
    }
    extrapolated = {
        name: bool(predictor.extrapolated(network.one_hot(predictor.space)[None])[0])
        for name, (_, network) in ends.items()
    }
    energy_mj = {
        name: None if energy is None else float(energy.predict(network.one_hot(predictor.space)[None])[0])
        for name, (_, network) in ends.items()
    }
    if arguments.json:
        print_json({
            "kind": "range", "space": predictor.space.name, "batch": predictor.batch, "metric": predictor.metric,
            "unit": predictor.unit, "simulated": predictor.simulated, "median": {predictor.metric: reach.median},
            **{
                name: {predictor.metric: value, **_energy_field(predictor, energy_mj[name]), "extrapolated": extrapolated[name], "architecture": network.to_json()}
                for name, (value, network) in ends.items()
            },
        })  # fmt: skip
        return 0
    unit = predictor.unit
    low, high = ("fastest", "slowest") if unit == "ms" else ("lowest", "highest")
    print_result(f"{predictor.space.name}, batch {predictor.batch}, {predictor.metric} predicted:")
    print_result(
        f"{low:<9}{ms(reach.lowest)} {unit}{_energy_text(predictor, energy_mj['lowest'])}  {reach.lowest_architecture}"
    )
    print_result(f"{'median':<9}{ms(reach.median)} {unit}  of random networks")
    print_result(
        f"{high:<9}{ms(reach.highest)} {unit}{_energy_text(predictor, energy_mj['highest'])}  {reach.highest_architecture}"
    )
    if any(extrapolated.values()):
        named = " and ".join(name for name, out in zip((low, high), extrapolated.values(), strict=True) if out)
        info(f"extrapolated: {named}; no measured network supports the prediction")
    return 0


def _energy_of(space: Space, table: luts.Lut) -> Predictor | None:
    """Of networks, as the sum of their operators' energy; None where the table lacks it for some."""
    from lightnas_edge.predictor import lut_predictor

    try:
        return lut_predictor(space, table, metric="energy_mj")
    except luts.LutMissError:
        return None


def _energy_text(predictor: Predictor, energy_mj: float | None) -> str:
    """`, 12.3 mJ` after a latency, or that it is not available; nothing after another metric."""
    if predictor.unit != "ms":
        return ""
    return ", energy not available" if energy_mj is None else f", {ms(energy_mj)} mJ"


def _energy_field(predictor: Predictor, energy_mj: float | None) -> dict[str, float | None]:
    return {"energy_mj": energy_mj} if predictor.unit == "ms" else {}
