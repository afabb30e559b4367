"""Micro-batches, bfloat16, and the choice of the fastest execution: with each, a search ends and can be resumed."""

import dataclasses
import json

import pytest
import torch

from lightnas_edge.errors import RunError
from lightnas_edge.nn import Supernet
from lightnas_edge.nn.execution import PLAIN, Execution, fastest_execution
from lightnas_edge.search import SearchConfig, run_search
from lightnas_edge.search.steps import weight_step
from lightnas_edge.space import Space
from tests.search.problems import CONFIG, SPACE, budget, data

PATH = [0, 1, 2, 0]


def gradients(*, micro_batches, images, labels):
    """Of one weight step with batch norm out of the way: it would see each micro-batch alone."""
    torch.manual_seed(0)
    supernet = Supernet(SPACE).train()
    batches = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(5))]
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.0)
    with supernet.calibrated(PATH, batches):
        weight_step(supernet, optimiser, images, labels, [PATH], micro_batches=micro_batches)
    return [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("micro_batches", [2, 3, 4])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(micro_batches):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(10, 3, 16, 16, generator=generator), torch.arange(10) % 10

    whole = gradients(micro_batches=1, images=images, labels=labels)
    parts = gradients(micro_batches=micro_batches, images=images, labels=labels)

    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_no_micro_batch_is_a_single_image():
    """Seven images in two to four micro-batches: batch norm cannot take one image of one pixel."""
    space = Space.from_json({**SPACE.to_json(), "input_size": 8})
    torch.manual_seed(0)
    supernet = Supernet(space).train()
    seen = []
    supernet.stem.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.0)

    for micro_batches in (2, 3, 4):
        weight_step(supernet, optimiser, torch.randn(7, 3, 8, 8), torch.arange(7), [PATH], micro_batches=micro_batches)

    assert seen == [4, 3, 3, 2, 2, 3, 2, 2]


@pytest.mark.parametrize("more", [{"micro_batches": 2}, {"precision": "bf16"}, {"precision": "auto"}])
@pytest.mark.parametrize("method", ["shared", "lightnas"])
def test_a_search_runs_so_and_is_resumed_as_it_began(tmp_path, more, method):
    config = dataclasses.replace(CONFIG, method=method, epochs=2, **more)
    events = []

    (first,) = run_search(tmp_path, SPACE, data(), budget(7.0), config, on_event=events.append)
    (again,) = run_search(tmp_path, SPACE, data(), budget(7.0), config)

    assert first.architecture == again.architecture
    assert first.predicted["latency_ms"] <= 7.0
    losses = [event["loss"] for event in events if event["kind"] == "search-step"]
    assert all(0 < loss < 20 for loss in losses)
    with pytest.raises(RunError, match=next(iter(more))):
        run_search(tmp_path, SPACE, data(), budget(7.0), dataclasses.replace(CONFIG, method=method, epochs=2))
    if more.get("precision") == "auto":
        (design,) = [event for event in events if event["kind"] == "precision"]
        assert len(design["step_ms"]) == 4 and design["chosen"] in design["step_ms"]


def test_bfloat16_computes_in_bfloat16_and_losses_stay_float32():
    torch.manual_seed(0)
    supernet, seen = Supernet(SPACE), []
    supernet.stem.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1)

    outcome = weight_step(
        supernet, optimiser, torch.randn(4, 3, 16, 16), torch.arange(4), [PATH], execution=Execution(bf16=True)
    )

    assert seen == [torch.bfloat16]
    assert outcome.loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in supernet.state_dict().values())


def test_the_trial_leaves_the_supernet_as_it_was():
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}

    chosen, times_ms = fastest_execution(
        supernet, lambda copy, images: copy(images, PATH), torch.randn(4, 3, 16, 16), torch.arange(4)
    )

    assert chosen == PLAIN or str(chosen) in times_ms
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_an_invalid_configuration_is_refused_at_once():
    with pytest.raises(RunError, match="micro_batches: 9 micro-batches of 16 images"):
        SearchConfig(batch=16, micro_batches=9)
    with pytest.raises(RunError, match="precision: expected one of fp32, bf16, auto, found 'fp8'"):
        SearchConfig(precision="fp8")
    with pytest.raises(RunError, match="method: expected one of shared, entangled, blockwise, lightnas, found 'darts'"):
        SearchConfig(method="darts")
    assert json.dumps(PLAIN.to_json()) == '{"bf16": false, "channels_last": true}'
