"""Progress of the search and of the training, which send the same kinds of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightnas_edge.cli._console import duration, info, ms, progress, warn
from lightnas_edge.errors import RunError

if TYPE_CHECKING:
    from lightnas_edge.data import DataSet
    from lightnas_edge.space import Space

Event = dict[str, Any]


def read_data(source: str, *, space: Space, seed: int, workers: int | None, copies: Path | None = None) -> DataSet:
    """The data set, with a line of progress: reading a large folder takes minutes."""
    from lightnas_edge.data import load_data

    with progress(f"reading {source}"):
        data = load_data(source, space=space, seed=seed, workers=workers, copies=copies)
    for note in data.notes:
        warn(note)
    return data


@contextmanager
def learning_progress(title: str, *, budget: tuple[float, str] | None = None) -> Iterator[Callable[[Event], None]]:
    """Call it with every event: it shows steps, loss and accuracy, and the prediction for the derived network.

    Args:
        budget: the first limit and its unit.
    """
    with progress(title) as bar:
        total, done, text = 1, 0, ""

        def draw(event: Event) -> None:
            nonlocal total, done, text
            if event["kind"] == "estimate":
                info(_estimate(event))
                return
            if event["kind"] == "warning":
                warn(event["text"])
                return
            if event["kind"] == "start":
                before, total = _steps(event, event["epoch"]), _steps(event, event["epochs"])
                done = before + event["step"]
            elif event["kind"] in ("search-step", "training-step"):
                done += 1
                text = f"epoch {event['epoch'] + 1}  loss {event['loss']:.3f}  accuracy {100 * event['accuracy']:.0f} %"
                if budget is not None:
                    (derived,) = event["derived"].values()
                    text += f"  {ms(derived)} of {budget[0]:g} {budget[1]}  multiplier {event['multiplier']:.3f}"
            elif event["kind"] == "candidate":
                text = f"comparing networks for {event['budget']}: {event['done']} of {event['total']}"
            elif event["kind"] == "confirming":
                done, total, text = event["done"], event["total"], event["text"]
            elif event["kind"] == "precision":
                text = f"fastest arithmetic: {event['chosen']}"
            elif event.get("validation_accuracy") is not None:
                text = f"epoch {event['epoch'] + 1}  validation accuracy {100 * event['validation_accuracy']:.1f} %"
                if event.get("entropy") is not None:
                    text += f"  entropy {event['entropy']:.2f}"
            bar(min(done, total), total, text)

        yield draw


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Callable[[Event], None]]:
    """Call it with every event: it writes scalars for TensorBoard below `folder`; None writes nothing.

    Raises:
        RunError: the package that writes them is not installed.
    """
    if folder is None:
        yield lambda event: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise RunError(
            "--tensorboard needs the package tensorboardX", hint="pip install 'lightnas-edge[tensorboard]'"
        ) from error
    done = 0

    def write(event: Event) -> None:
        nonlocal done
        if event["kind"] == "start":
            done = _steps(event, event["epoch"]) + event["step"]
        elif event["kind"] == "search-step":
            done += 1
            for name in ("loss", "accuracy"):
                writer.add_scalar(f"{event['phase']}/{name}", event[name], done)
            for metric, value in event["sampled"].items():
                writer.add_scalar(f"{event['phase']}/sampled {metric}", value, done)
        elif event["kind"] == "search-epoch":
            epoch = event["epoch"] + 1
            for name in ("train_accuracy", "validation_accuracy", "train_loss", "validation_loss", "entropy"):
                if event.get(name) is not None:
                    writer.add_scalar(f"epoch/{name}", event[name], epoch)
            for budget in event["budgets"]:
                for metric, value in budget["derived"].items():
                    writer.add_scalar(f"{budget['name']}/{metric}", value, epoch)
                    writer.add_scalar(f"{budget['name']}/multiplier of {metric}", budget["multipliers"][metric], epoch)
            writer.flush()

    writer = SummaryWriter(str(folder))
    try:
        yield write
    finally:
        writer.close()


def _estimate(event: Event) -> str:
    """`estimate: 34560 steps, 2 h 05 min, 812 MB of memory`; what is unknown is left out."""
    parts = [f"{event['steps']} steps"]
    if event.get("seconds") is not None:
        parts.append(f"about {duration(event['seconds'])}")
    if event.get("memory_mb") is not None:
        parts.append(f"{event['memory_mb']:.0f} MB of memory")
    return f"estimate: {', '.join(parts)}"


def _steps(start: Event, epochs: int) -> int:
    """Steps of that many epochs."""
    if "steps" in start:
        return int(start["steps"] * epochs)
    searching = max(0, epochs - start["warmup_epochs"])
    return int(start["weight_steps"] * epochs + start["architecture_steps"] * searching)
