"""Arguments that several commands share, checked as they are read."""

from __future__ import annotations

import argparse
import getpass
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices import Connection
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring import MeasurementProtocol, Settings
from lightnas_edge.space import Space, load_space

if TYPE_CHECKING:
    from lightnas_edge.predictor import AdditivePredictor

ENERGY_ROUNDS = 2


def milliseconds(text: str) -> float:
    """argparse type of a budget: a positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"a budget is a positive number of milliseconds, not {text!r}")
    return value


def positive(text: str) -> float:
    """argparse type of any other limit: a positive, finite number."""
    try:
        return milliseconds(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}") from error


def count(text: str) -> int:
    """argparse type: a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """argparse type: strictly between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, not {text!r}")
    return value


def percentage(text: str) -> float:
    """argparse type: per cent, above 0 and below 100; the share that it is."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected per cent, above 0 and below 100, not {text!r}")
    return value


def add_space(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--space", required=required, metavar="NAME|FILE",
        help="search space: lightnas, lightnas-se, tiny, tiny-se, or your own .toml or .json file",
    )  # fmt: skip


def add_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classes", type=count, metavar="N", help="of your data: sizes the head (default: the space's own)"
    )


def chosen_space(arguments: argparse.Namespace) -> Space:
    """The space that was named, for as many classes as were asked for."""
    space = load_space(arguments.space)
    return space if arguments.classes is None else space.with_classes(arguments.classes)


def read_prior(path: Path | None, space: Space) -> AdditivePredictor | None:
    """The predictor of another board that `--prior` names.

    Raises:
        PredictorError: it cannot be read, is of another space, or is not additive.
    """
    from lightnas_edge.predictor import AdditivePredictor, load_predictor

    if path is None:
        return None
    prior = load_predictor(path, space)
    if not isinstance(prior, AdditivePredictor):
        raise PredictorError(
            f"{path} is of type {prior.type}: only additive predictors carry over",
            hint="fit one on the other board: lightnas-edge fit --method calibrated, or --method samples",
        )
    return prior


def add_host(parser: argparse.ArgumentParser, *, default: str | None = "localhost") -> None:
    told = f" (default: {default})" if default else ""
    parser.add_argument("--host", default=default, metavar="HOST", help=f"the board to measure on{told}")


def add_measuring(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    group = parser.add_argument_group("measuring")
    group.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "int8"), help="default: fp32")
    group.add_argument("--backend", metavar="NAME", help="engine (default: TensorRT on a Jetson, else ONNX Runtime)")
    group.add_argument("--batch", type=count, default=1, metavar="N", help="images per inference (default: 1)")
    group.add_argument("--threads", type=count, default=1, metavar="N", help="CPU threads of the engine (default: 1)")
    group.add_argument(
        "--rounds", type=count, default=rounds, metavar="N",
        help=f"how often everything is measured, in a new order each time (default: {rounds})",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="order of measuring and random choices (default: 0)"
    )
    group.add_argument(
        "--fresh", action="store_true",
        help="measure everything anew; the table that is there is kept beside as .old",
    )  # fmt: skip
    add_board(group)
    group.add_argument("--resume", action="store_true", help="go on where an earlier run stopped (this is the default)")


def add_board(group: argparse._ActionsContainer) -> None:
    """What may be done to the board, and asked of it, while a campaign runs."""
    group.add_argument(
        "--energy", action="store_true",
        help=f"measure energy too, in {ENERGY_ROUNDS} further rounds of about 15 s per operator",
    )  # fmt: skip
    group.add_argument("--lock-clocks", action="store_true", help="by jetson_clocks; needs sudo; put back afterwards")
    group.add_argument(
        "--power-mode", metavar="MODE", help="by nvpmodel, name or number; needs sudo; put back afterwards"
    )
    group.add_argument("--ask-sudo-password", action="store_true", help="for a board whose sudo wants one")


def settings(arguments: argparse.Namespace, connection: Connection) -> Settings:
    """How to measure on this board: its usual engine unless another was named."""
    return Settings(
        backend=arguments.backend or connection.backend,
        precision=arguments.precision,
        batch=arguments.batch,
        threads=arguments.threads,
        protocol=MeasurementProtocol(rounds=arguments.rounds, seed=arguments.seed),
        **board_settings(arguments),
    )


def board_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of Settings that `add_board` asks for."""
    return {
        "energy_rounds": ENERGY_ROUNDS if arguments.energy else 0,
        "lock_clocks": arguments.lock_clocks,
        "power_mode": arguments.power_mode,
    }


def sudo_password(arguments: argparse.Namespace) -> str | None:
    """Asked for at the terminal, and only when it is needed."""
    if not arguments.ask_sudo_password:
        return None
    return getpass.getpass(f"sudo password on {arguments.host}: ")


def table_path(host: str, space: str, chosen: Settings, kind: str) -> Path:
    """Where a table goes when the user does not say: the current folder, named after what it holds."""
    board = "".join(character if character.isalnum() or character in "-." else "-" for character in host)
    engine = f"{chosen.precision}-b{chosen.batch}-t{chosen.threads}"
    return Path(f"{board}-{space}-{engine}{kind}.lut.jsonl")
