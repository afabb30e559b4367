"""Candidates that are cuts of one block: their weights are parts of its weights, in every pass and in the graph."""

import copy

import numpy as np
import pytest
import torch

from lightnas_edge.graph import model_bytes, network_model
from lightnas_edge.nn import Supernet, folded_path_weights
from lightnas_edge.space import Architecture, Operator, Space, load_space
from tests.search.problems import SPACE as SMALL

TINY = load_space("tiny")
# No candidate has both the largest kernel and the largest expansion.
CROSSED = Space.from_json({**SMALL.to_json(), "operators": ["mbconv_k3_e3", "mbconv_k5_e2", "mbconv_k3_e1", "skip"]})


@pytest.mark.parametrize("space", [TINY, SMALL, CROSSED])
def test_a_candidate_is_the_first_channels_and_the_middle_of_the_kernel_of_one_block(space):
    torch.manual_seed(0)
    supernet = Supernet(space, entangled=True)
    largest = max(each.kernel for each in space.operators)

    for whole, candidates in zip(supernet.wholes, supernet.layers, strict=True):
        for operator, block in zip(space.operators, candidates, strict=True):
            if operator == Operator("skip"):
                continue
            rim, hidden = (largest - operator.kernel) // 2, block.depthwise.out_channels
            middle = slice(rim, rim + operator.kernel)
            assert torch.equal(block.depthwise.weight, whole.depthwise.weight[:hidden, :, middle, middle])
            assert torch.equal(block.project.weight, whole.project.weight[:, :hidden])
            if block.expand is not None:
                assert torch.equal(block.expand.weight, whole.expand.weight[:hidden])


def test_a_path_trains_a_part_of_every_candidate():
    torch.manual_seed(0)
    supernet, images = Supernet(SMALL, entangled=True), torch.randn(8, 3, 16, 16)
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1)
    before = [block.depthwise.weight.clone() for block in supernet.layers[1][:2]]

    supernet(images, [0, 0, 0, 0]).square().sum().backward()  # the small block of every layer
    optimiser.step()

    small, large = (block.depthwise.weight for block in supernet.layers[1][:2])
    assert not torch.equal(small, before[0])
    assert torch.equal(large[: len(small), :, 1:4, 1:4], small), "the large block has the small one's new weights"
    assert torch.equal(large[len(small) :], before[1][len(small) :]), "and keeps its own channels"


def test_weights_are_stored_once_and_a_copy_has_its_own():
    torch.manual_seed(0)
    supernet = Supernet(SMALL, entangled=True)
    apart = Supernet(SMALL)
    copied = copy.deepcopy(supernet)
    with torch.no_grad():
        copied.wholes[0].project.weight.zero_()
    again = Supernet(SMALL, entangled=True)
    again.load_state_dict(supernet.state_dict())

    assert not [name for name in supernet.state_dict() if name.startswith("layers") and "depthwise" in name]
    assert sum(each.numel() for each in supernet.parameters()) < sum(each.numel() for each in apart.parameters())
    assert copied.layers[0][0].project.weight.abs().max() == 0 < supernet.layers[0][0].project.weight.abs().max()
    images, path = torch.randn(4, 3, 16, 16), [0, 1, 2, 1]
    assert torch.equal(supernet.eval()(images, path), again.eval()(images, path))


@pytest.mark.parametrize("path", [[0, 1, 0, 1], [1, 0, 2, 2]])
def test_the_graph_of_a_path_has_the_weights_of_its_cuts(path):
    """Folded into a network for ONNX Runtime, it answers as PyTorch does."""
    import onnxruntime

    torch.manual_seed(0)
    supernet, images = Supernet(SMALL, entangled=True), torch.randn(6, 3, 16, 16)
    architecture = Architecture.from_indices(SMALL, path)
    with supernet.calibrated(path, [torch.randn(16, 3, 16, 16)]), torch.no_grad():
        expected = supernet(images, path).numpy()
        weights = folded_path_weights(supernet, path)
    model = network_model(SMALL, architecture, weights=weights, batch=6)
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])

    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, atol=1e-4, rtol=1e-4)
