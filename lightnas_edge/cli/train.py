"""`lightnas-edge train`: the network that was found, from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightnas_edge.cli._console import percent, say
from lightnas_edge.cli._learning import learning_progress
from lightnas_edge.cli._options import count
from lightnas_edge.runs import read_architecture, read_run


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train", help="train the network that was found, from scratch",
        description="Train the network of a run from scratch. Interrupt it whenever you like: the same command goes on from there.",
        epilog="example: lightnas-edge train runs/tiny-0.9ms --epochs 30",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--data", metavar="DIR", help="default: the data of the search")
    parser.add_argument("--epochs", type=count, default=360, metavar="N", help="default: 360, as published")
    parser.add_argument("--batch-size", type=count, default=128, metavar="N", help="default: 128")
    parser.add_argument("--lr", type=float, metavar="R", help="default: 0.5 * batch / 1024, at least 0.05")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that decode images (default: one per core)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of going on")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.data import load_data
    from lightnas_edge.train import TrainConfig, train_network

    run, space = read_run(arguments.run_folder)
    architecture = read_architecture(arguments.run_folder, space)
    data = load_data(arguments.data or run["data"]["source"], space=space, seed=run["seed"], workers=arguments.workers)
    config = TrainConfig(
        epochs=arguments.epochs, batch=arguments.batch_size, lr=arguments.lr, seed=run["seed"], device=arguments.device
    )
    with learning_progress("training") as draw:
        result = train_network(
            arguments.run_folder, space.with_classes(len(data.classes)), architecture, data, config,
            resume=not arguments.fresh, on_event=draw,
        )  # fmt: skip
    say(
        f"trained {result.epochs} epochs: {percent(result.best_accuracy)} of {len(data.validation)} validation images right "
        f"(best epoch {result.best_epoch + 1}, chosen on these same images; last epoch {percent(result.last_accuracy)})"
    )
    return 0
