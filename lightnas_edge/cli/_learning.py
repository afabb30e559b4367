"""The progress bar of what learns: the search and the training send the same kinds of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightnas_edge.cli._console import ms, progress
from lightnas_edge.errors import RunError

Event = dict[str, Any]


@contextmanager
def learning_progress(title: str, *, budget: tuple[float, str] | None = None) -> Iterator[Callable[[Event], None]]:
    """Something to call with every event: steps done and left, the loss, the latency of the network preferred now."""
    with progress(title) as bar:
        total, done, text = 1, 0, ""

        def draw(event: Event) -> None:
            nonlocal total, done, text
            if event["kind"] == "start":
                before, total = _steps(event, event["epoch"]), _steps(event, event["epochs"])
                done = before + event["step"]
            elif event["kind"] == "step":
                done += 1
                text = f"epoch {event['epoch'] + 1}  loss {event['loss']:.3f}  {100 * event['accuracy']:.0f} % right"
                if budget is not None:
                    text += f"  {ms(event['derived_ms'])} of {budget[0]:g} {budget[1]}  lambda {event['lambda']:.3f}"
            elif event["kind"] == "candidate":
                text = f"comparing networks for {event['budget']}: {event['done']} of {event['total']}"
            elif event["kind"] == "precision":
                text = f"{event['chosen']} is quickest here"
            elif event.get("validation_accuracy") is not None:
                text = (
                    f"epoch {event['epoch'] + 1}  {100 * event['validation_accuracy']:.1f} % of validation images right"
                )
                if event.get("entropy") is not None:
                    text += f"  entropy {event['entropy']:.2f}"
            bar(min(done, total), total, text)

        yield draw


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Callable[[Event], None]]:
    """Something to call with every event, that writes scalars for TensorBoard below `folder`; None writes nothing.

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
        elif event["kind"] == "step":
            done += 1
            for name in ("loss", "accuracy", "sampled_ms"):
                writer.add_scalar(f"{event['phase']}/{name}", event[name], done)
        elif event["kind"] == "epoch":
            epoch = event["epoch"] + 1
            for name in ("train_accuracy", "validation_accuracy", "train_loss", "validation_loss", "entropy"):
                if event.get(name) is not None:
                    writer.add_scalar(f"epoch/{name}", event[name], epoch)
            for budget in event["budgets"]:
                for metric, value in budget["derived"].items():
                    writer.add_scalar(f"{budget['name']}/{metric}", value, epoch)
                    writer.add_scalar(f"{budget['name']}/lambda of {metric}", budget["lambda"][metric], epoch)
            writer.flush()

    writer = SummaryWriter(str(folder))
    try:
        yield write
    finally:
        writer.close()


def _steps(start: Event, epochs: int) -> int:
    """Steps of that many epochs."""
    if "steps" in start:
        return int(start["steps"] * epochs)
    searching = max(0, epochs - start["warmup_epochs"])
    return int(start["weight_steps"] * epochs + start["architecture_steps"] * searching)
