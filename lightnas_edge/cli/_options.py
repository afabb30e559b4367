"""Arguments that several commands share, checked as they are read."""

from __future__ import annotations

import argparse
import difflib
import getpass
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import luts
from devices import Connection, farm
from lightnas_edge.cli._console import UsageError, info
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring import MeasurementProtocol, Settings
from lightnas_edge.measuring.engines import PRECISIONS, PRECISIONS_OF, why_impossible
from lightnas_edge.measuring.tables import ENERGY_ROUNDS
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.space import Space, load_space

if TYPE_CHECKING:
    from lightnas_edge.predictor import AdditivePredictor

LARGEST_SEED = 2**31 - 1
LONGEST_BUILD_S = 1e6
MOST_STREAMS = 64  # that the agent takes


class _StoreOnce(argparse.Action):
    """An option with one value: giving it twice is an error, because one of the values would be ignored."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given = vars(namespace).setdefault("given_options", set())
            if self.dest in given:
                raise argparse.ArgumentError(self, "given twice; it takes one value")
            given.add(self.dest)
        setattr(namespace, self.dest, values)


class CommandParser(argparse.ArgumentParser):
    """Options are written out in full and given once; an unknown choice names the choices."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid choice: {unknown_choice(str(value), action.choices)}")

    def error(self, message: str) -> NoReturn:
        super().error("\n".join(map(clean_text, message.splitlines())))


def unknown_choice(value: str, choices: Iterable[Any]) -> str:
    """`'serch'; did you mean 'search'? (choose from 'demo', 'search')`."""
    names = [str(choice) for choice in choices]
    close = difflib.get_close_matches(value, names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{value!r}{meant} (choose from {', '.join(map(repr, names))})"


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes."""
    group = parser.add_argument_group("output")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="show debug messages and tracebacks")
    loudness.add_argument("-q", "--quiet", action="store_true", help="show the result, warnings and errors only")
    group.add_argument(
        "--log-file", type=Path, metavar="FILE", help="append everything to FILE, with times and tracebacks"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def add_fresh(group: argparse._ActionsContainer, text: str) -> None:
    """Either of both, never both."""
    either = group.add_mutually_exclusive_group()
    either.add_argument("--fresh", action="store_true", help=text)
    either.add_argument("--resume", action="store_true", help="continue an interrupted run (default)")


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
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


def round_count(text: str) -> int:
    """argparse type: as `count`, and no more rounds than the table can be read with."""
    found = count(text)
    if found > luts.MOST_ROUNDS:
        raise argparse.ArgumentTypeError(f"expected at most {luts.MOST_ROUNDS} rounds, not {text!r}")
    return found


def whole(text: str) -> int:
    """argparse type: a whole number, zero included."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {LARGEST_SEED}, not {text!r}")
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
    """argparse type: per cent, above 0 and below 100; returns the share."""
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
        help="search space: lightnas, lightnas-se, nasbench-macro, tiny, tiny-se, or your own .toml or .json file",
    )  # fmt: skip


def add_classes(
    parser: argparse.ArgumentParser, text: str = "classes of your data; sets the head (default: the space's own)"
) -> None:
    parser.add_argument("--classes", type=count, metavar="N", help=text)


def chosen_space(arguments: argparse.Namespace) -> Space:
    """The named space, with the number of classes that was given."""
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
            f"{path} is of type {prior.type}: only additive predictors transfer to another board",
            hint="fit one on the other board: "
            f"`lightnas-edge fit --space {space.option} --lut FILE --samples FILE --method calibrated`",
        )
    return prior


def add_host(
    parser: argparse.ArgumentParser,
    *,
    default: str | None = "localhost",
    shown: str | None = None,
    several: bool = False,
) -> None:
    """`shown`: the default as people read it. `several`: it may name several boards."""
    what = "the board, or boards with commas between, or a group of boards.toml" if several else "the board"
    parser.add_argument(
        "--host",
        default=default,
        metavar="HOST" + ",..." * several,
        help=f"{what} to measure on (default: {shown or default})",
    )
    parser.add_argument(
        "--place", type=place, action="append", default=[], metavar="TAG=VALUE,...",
        help="in place of --host: reserve a board with these tags in labgrid's coordinator (LG_COORDINATOR) for the command"
        f"{'; may be repeated, one board each' if several else ''}",
    )  # fmt: skip
    parser.set_defaults(takes_several_hosts=several)


def place(text: str) -> tuple[str, ...]:
    """argparse type: `board=agx-orin,jetpack=6`."""
    try:
        return farm.tags_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def announce_default_host(arguments: argparse.Namespace) -> None:
    """Nobody who meant a board measures this machine without a word."""
    if "host" not in vars(arguments).get("given_options", ()):
        info(f"no --host given: measuring on this machine ({arguments.host})")


def add_workers(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="processes that decode images; 0: none (default: one per core)"
    )


def add_image_copies(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--image-copies", type=Path, metavar="DIR",
        help="keep smaller copies of large images there, at most 20 GB, and crop from them",
    )  # fmt: skip


def add_accumulate(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--accumulate", type=count, default=1, metavar="N",
        help="split a batch into N micro-batches and add their gradients, for less memory (default: 1)",
    )  # fmt: skip


def add_train_precision(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--train-precision", default="fp32", choices=("fp32", "bf16", "auto"),
        help="of the arithmetic; auto takes the fastest in a short trial (default: fp32)",
    )  # fmt: skip


def add_device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="for training (default: auto, CUDA if present)",
    )


def add_measuring(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    group = parser.add_argument_group("measuring")
    group.add_argument("--precision", default="fp32", choices=PRECISIONS, help="default: fp32")
    group.add_argument("--backend", metavar="NAME", help="engine (default: TensorRT on a Jetson, else ONNX Runtime)")
    group.add_argument("--batch", type=count, default=1, metavar="N", help="images per inference (default: 1)")
    group.add_argument("--threads", type=count, default=1, metavar="N", help="CPU threads of the engine (default: 1)")
    add_streams(group, "default: 1; a table of its own", default=1)
    group.add_argument(
        "--cuda-graph",
        action="store_true",
        help="launch each inference as one CUDA graph (TensorRT); a table of its own",
    )
    group.add_argument(
        "--rounds", type=round_count, default=rounds, metavar="N", help=f"visits of every operator (default: {rounds})"
    )
    group.add_argument(
        "--seed",
        type=whole,
        default=0,
        metavar="N",
        help="of the order of measuring and of random choices (default: 0)",
    )
    add_fresh(group, "measure everything again; the earlier table is kept as .old")
    add_board(group)


def add_streams(group: argparse._ActionsContainer, text: str, *, default: int | None) -> None:
    group.add_argument(
        "--streams", type=streams, default=default, metavar="N",
        help=f"inferences that run at the same time, each in a stream of its own ({text})",
    )  # fmt: skip


def streams(text: str) -> int:
    """argparse type: as many as the agent takes."""
    value = count(text)
    if value > MOST_STREAMS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_STREAMS} streams, not {text!r}")
    return value


def add_board(group: argparse._ActionsContainer) -> None:
    """Energy, the state of the board while it measures, and how long it may build."""
    group.add_argument(
        "--energy", action="store_true",
        help=f"measure energy too, in {ENERGY_ROUNDS} further rounds of about 20 s per operator",
    )  # fmt: skip
    group.add_argument(
        "--lock-clocks", action="store_true", help="run jetson_clocks for the campaign; needs sudo; restored afterwards"
    )
    group.add_argument(
        "--power-mode",
        type=_power_mode,
        metavar="MODE",
        help="nvpmodel mode, name or number; needs sudo; restored afterwards",
    )
    group.add_argument(
        "--build-timeout",
        type=build_timeout,
        default=Settings.build_timeout_s,
        metavar="SECONDS",
        help="longest time to build one engine, where TensorRT builds (default: 3600)",
    )
    group.add_argument(
        "--ask-sudo-password", action="store_true", help="ask for it here, for --lock-clocks and --power-mode"
    )


def build_timeout(text: str) -> float:
    """argparse type: seconds, at least one."""
    seconds = positive(text)
    if not 1 <= seconds <= LONGEST_BUILD_S:
        raise argparse.ArgumentTypeError(f"expected 1 to {LONGEST_BUILD_S:g} seconds, not {text!r}")
    return seconds


def _power_mode(text: str) -> str:
    """argparse type: a name or a number of nvpmodel."""
    if not text or text.startswith("-"):
        raise argparse.ArgumentTypeError(f"expected the name or the number of a power mode, not {text!r}")
    return text


def settings(arguments: argparse.Namespace, connection: Connection) -> Settings:
    """How to measure on this board: with its usual engine unless another is named.

    Raises:
        UsageError: the engine has no kernels of that precision.
    """
    backend = arguments.backend or connection.backend
    refuse_impossible(backend, arguments.precision)
    return Settings(
        backend=backend,
        precision=arguments.precision,
        batch=arguments.batch,
        threads=arguments.threads,
        cuda_graph=arguments.cuda_graph,
        streams=arguments.streams,
        protocol=MeasurementProtocol(rounds=arguments.rounds, seed=arguments.seed),
        **board_settings(arguments),
    )


def refuse_impossible(backend: str, precision: str) -> None:
    """Raises UsageError: no such engine, or it has no kernels of that precision."""
    if backend not in PRECISIONS_OF:
        raise UsageError(f"--backend: invalid choice: {unknown_choice(backend, PRECISIONS_OF)}")
    why = why_impossible(backend, precision)
    if why is not None:
        raise UsageError(why, hint=f"use --precision {PRECISIONS_OF[backend][0]}, or measure on a board with TensorRT")


def board_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of Settings that `add_board` asks for."""
    return {
        "build_timeout_s": arguments.build_timeout,
        "energy_rounds": ENERGY_ROUNDS if arguments.energy else 0,
        "lock_clocks": arguments.lock_clocks,
        "power_mode": arguments.power_mode,
    }


def sudo_password(arguments: argparse.Namespace) -> str | None:
    """Asked for at the terminal, and only when it is needed.

    Raises:
        UsageError: there is no terminal to ask at, or nobody answers.
    """
    if not arguments.ask_sudo_password:
        return None
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "--ask-sudo-password needs a terminal to ask at",
            hint="run the command in a terminal, or allow sudo on the board without a password (docs/measuring.md)",
        )
    try:
        return getpass.getpass(f"sudo password on {arguments.host}: ")
    except EOFError as error:  # Ctrl-D
        raise UsageError("no sudo password was given", hint="repeat the command and enter it") from error
