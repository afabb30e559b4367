"""`lightnas-edge train`: the network that was found, from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightnas_edge.cli._console import percent, print_result, warn
from lightnas_edge.cli._learning import learning_progress, read_data
from lightnas_edge.cli._options import add_device, add_fresh, add_json, add_workers, count, positive
from lightnas_edge.cli._several import add_all, chosen_runs, for_each, print_records
from lightnas_edge.records.deployment import TrainingRecord
from lightnas_edge.runs import Run


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train", help="train the network that was found, from scratch",
        description="Train the network of a run from scratch. After Ctrl-C the same command continues.",
        epilog="example: lightnas-edge train runs/tiny-0.9ms --epochs 30",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_all(parser, "train")
    parser.add_argument("--data", metavar="DIR", help="default: the data of the search")
    parser.add_argument("--epochs", type=count, default=360, metavar="N", help="default: 360, as published")
    parser.add_argument("--batch-size", type=count, default=128, metavar="N", help="default: 128")
    parser.add_argument("--lr", type=positive, metavar="R", help="default: 0.5 * batch / 1024, at least 0.05")
    add_workers(parser)
    add_device(parser)
    add_fresh(parser, "train from the beginning")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    records, code = for_each(chosen_runs(arguments), lambda run: _trained(run, arguments))
    print_records(arguments, records)
    return code


def _trained(run: Run, arguments: argparse.Namespace) -> TrainingRecord:
    from lightnas_edge.train import TrainConfig, train_network

    source = arguments.data or run.data.source
    data = read_data(source, space=run.space, seed=run.record.seed, workers=arguments.workers)
    if data.classes != run.data.classes:
        warn(
            f"{data.source} has {len(data.classes)} classes, the data of the search {len(run.data.classes)}; the weights and "
            "the export are for the former, the predicted latency is for the latter"
        )
    config = TrainConfig(
        epochs=arguments.epochs,
        batch=arguments.batch_size,
        lr=arguments.lr,
        seed=run.record.seed,
        device=arguments.device,
    )
    with learning_progress("training") as draw:
        record = train_network(run, data, config, resume=not arguments.fresh, on_event=draw).record
    if not arguments.json:
        print_result(
            f"trained {record.epochs} epochs: top-1 accuracy {percent(record.best_accuracy)} (n={len(data.validation)}; best epoch "
            f"{record.best_epoch + 1}, chosen on these same images; last epoch {percent(record.last_accuracy)})"
        )
    return record
