"""The first Ctrl-C waits for a point from which a loop can resume, and stops abandonable work at once."""

import os
import signal
import threading

import pytest
import torch

from lightnas_edge.nn import Network, Supernet
from lightnas_edge.nn.interruption import Interruptible, WorkAbandoned
from lightnas_edge.space import Architecture
from tests.search.problems import SPACE


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_one_waits_and_the_second_one_does_not():
    with Interruptible() as interruptible:
        ctrl_c()
        assert interruptible.requested
        with pytest.raises(KeyboardInterrupt) as caught:
            ctrl_c()

    assert not isinstance(caught.value, WorkAbandoned)


def test_abandonable_work_stops_at_once_or_does_not_begin():
    done = []
    with Interruptible() as interruptible:
        with pytest.raises(WorkAbandoned), interruptible.abandonable():
            ctrl_c()
            done.append("after the signal")
        with pytest.raises(WorkAbandoned), interruptible.abandonable():
            done.append("after the request")

    assert done == []


def test_the_handler_of_before_is_restored():
    before = signal.getsignal(signal.SIGINT)

    with Interruptible():
        assert signal.getsignal(signal.SIGINT) != before

    assert signal.getsignal(signal.SIGINT) == before


def test_another_thread_can_run_the_loop_without_signals():
    found = []

    def work():
        with Interruptible() as interruptible, interruptible.abandonable():
            found.append(interruptible.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == [False]


@pytest.mark.parametrize("kind", ["network", "supernet"])
def test_a_backward_pass_stops_between_its_layers(kind):
    """The signal comes with the gradient of the last layer: those of the layers before it are not computed."""
    path = [0, 1, 0, 1]
    if kind == "network":
        model = Network(SPACE, Architecture.from_indices(SPACE, path))
        layers, logits = list(model.layers), lambda x: model(x)
    else:
        model = Supernet(SPACE)
        layers = [candidates[index] for candidates, index in zip(model.layers, path, strict=True)]
        logits = lambda x: model(x, path)  # noqa: E731
    next(layers[3].parameters()).register_hook(lambda gradient: ctrl_c())

    with Interruptible() as interruptible:
        loss = logits(torch.randn(4, 3, 16, 16)).sum()
        with pytest.raises(WorkAbandoned), interruptible.abandonable():
            loss.backward()

    computed = [all(weight.grad is not None for weight in layer.parameters()) for layer in layers]
    assert computed[:3] == [False, False, False]
