"""The progress bar of what learns: the search and the training send the same kinds of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightnas_edge.cli.console import ms, progress

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
                text = f"epoch {event['epoch'] + 1}  loss {event['loss']:.3f}"
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


def _steps(start: Event, epochs: int) -> int:
    """Steps of that many epochs."""
    if "steps" in start:
        return int(start["steps"] * epochs)
    searching = max(0, epochs - start["warmup_epochs"])
    return int(start["weight_steps"] * epochs + start["architecture_steps"] * searching)
