"""The device that is asked for is there, or the error says what to ask for instead."""

import pytest
import torch

from lightnas_edge.errors import RunError
from lightnas_edge.nn import Network
from lightnas_edge.nn.device import choose_device, peak_memory_mb, undo_of_forward
from lightnas_edge.space import Architecture
from tests.search.problems import SPACE


@pytest.mark.parametrize("name", ["cuda:99", "abacus", *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])])
def test_a_device_that_is_absent_is_an_error_with_a_remedy(name):
    with pytest.raises(RunError, match=name) as caught:
        choose_device(name)

    assert "--device cpu" in caught.value.hint


def test_auto_always_finds_a_device():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_undo_restores_random_numbers_and_running_statistics():
    cpu = torch.device("cpu")
    network = Network(SPACE, Architecture.from_indices(SPACE, [0, 1, 2, 0])).train()
    generator = torch.Generator().manual_seed(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    undo = undo_of_forward(network, cpu, [generator])

    drawn = torch.rand(3, generator=generator), torch.rand(3)
    network(torch.randn(4, 3, 16, 16))
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    undo()

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.rand(3, generator=generator), drawn[0])
    assert torch.equal(torch.rand(3), drawn[1])


def test_the_peak_of_memory_holds_what_was_allocated():
    """A process with PyTorch loaded uses more than 50 MB, and 100 MB more after it wrote 100 MB."""
    cpu = torch.device("cpu")
    before_mb = peak_memory_mb(cpu)
    block = torch.ones(int(before_mb * 1e6 / 4) + 25_000_000)

    assert before_mb > 50
    assert peak_memory_mb(cpu) > before_mb
    assert len(block)
