"""`lightnas-edge range`: the smallest and the largest prediction of a space."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import luts
from lightnas_edge.cli._console import UsageError, info, ms, print_json, print_result
from lightnas_edge.cli._options import add_classes, add_json, add_space, chosen_space

if TYPE_CHECKING:
    from lightnas_edge.records.run import PredictedEnergy


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
    from lightnas_edge.predictor.energy import fit_energy, predict_energy, table_energy, table_of

    energy = None
    if arguments.classes is not None and arguments.space is None:
        raise UsageError("--classes needs --space: a predictor has the classes that it was fitted for")
    space = None if arguments.space is None else chosen_space(arguments)
    if arguments.lut and reference_predictor(arguments.lut):
        arguments.predictor = arguments.lut  # tables that come with the project are predictors already
    if arguments.predictor:
        predictor = load_predictor(arguments.predictor, space)
        behind = table_of(predictor, arguments.predictor)
        energy = None if behind is None else table_energy(predictor.space, behind, predictor.fingerprint)
    elif space is None:
        raise UsageError("--lut needs --space: a table does not name a search space")
    else:
        table = luts.read(arguments.lut)
        predictor = lut_predictor(space, table)
        energy = fit_energy(space, table, [table])
    reach = reachable_range(predictor)
    ends = {
        "lowest": (reach.lowest, reach.lowest_architecture),
        "highest": (reach.highest, reach.highest_architecture),
    }
    extrapolated = {
        name: bool(predictor.extrapolated(network.one_hot(predictor.space)[None])[0])
        for name, (_, network) in ends.items()
    }
    is_time = predictor.unit == "ms"
    energies = {
        name: None if energy is None else predict_energy(energy, network) for name, (_, network) in ends.items()
    }
    if arguments.json:
        print_json({
            "kind": "range", "space": predictor.space.name, "batch": predictor.batch, "metric": predictor.metric,
            "unit": predictor.unit, "simulated": predictor.simulated, "median": {predictor.metric: reach.median},
            **{
                name: {predictor.metric: value, **(_fields(energies[name]) if is_time else {}), "extrapolated": extrapolated[name], "architecture": network.to_json()}
                for name, (value, network) in ends.items()
            },
        })  # fmt: skip
        return 0
    unit = predictor.unit
    joules = {name: _text(each) if is_time else "" for name, each in energies.items()}
    low, high = ("fastest", "slowest") if unit == "ms" else ("lowest", "highest")
    simulated = "SIMULATED: " if predictor.simulated else ""
    print_result(f"{simulated}{predictor.space.name}, batch {predictor.batch}, {predictor.metric} predicted:")
    print_result(f"{low:<9}{ms(reach.lowest)} {unit}{joules['lowest']}  {reach.lowest_architecture}")
    print_result(f"{'median':<9}{ms(reach.median)} {unit}  of random networks")
    print_result(f"{high:<9}{ms(reach.highest)} {unit}{joules['highest']}  {reach.highest_architecture}")
    if any(extrapolated.values()):
        named = " and ".join(name for name, out in zip((low, high), extrapolated.values(), strict=True) if out)
        info(f"extrapolated: {named}; no measured network supports the prediction")
    return 0


def _text(energy: PredictedEnergy | None) -> str:
    """`, 12.3 mJ (11.8 to 12.8)`"""
    if energy is None:
        return ", energy not available"
    low, high = map(ms, energy.interval_mj)
    return f", {ms(energy.energy_mj)} mJ ({low} to {high})"


def _fields(energy: PredictedEnergy | None) -> dict[str, object]:
    return {
        "energy_mj": None if energy is None else energy.energy_mj,
        "energy_interval_mj": None if energy is None else list(energy.interval_mj),
    }
