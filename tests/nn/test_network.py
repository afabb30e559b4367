"""One architecture in PyTorch: sizes, folding, and agreement with the ONNX graph that is deployed."""

import numpy as np
import pytest
import torch

from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.space import Architecture, Space, load_space, parameters_m


def small_space(*operators, size=16):
    """Two searchable layers: one that changes the shape, one that keeps it."""
    return Space.from_json(
        {
            "schema": 1, "name": "small", "input_size": size, "classes": 3, "dropout": 0.2,
            "stem": {"channels": 8, "stride": 2}, "first": {"operator": "mbconv_k3_e1", "channels": 8},
            "operators": list(operators), "layers": [{"channels": 16, "stride": 2}, {"channels": 16, "stride": 1}],
            "head": {"channels": 24, "features": 12},
        }
    )  # fmt: skip


def trained_like(network):
    """Batch norm as after training: no statistic or scale is at its default."""
    generator = torch.Generator().manual_seed(3)
    for name, value in network.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["lightnas", "lightnas-se", "nasbench-macro", "tiny"])
def test_parameters_are_those_the_plain_data_count(name):
    space = load_space(name)
    architecture = Architecture.random(space, np.random.default_rng(0))

    parameters = sum(parameter.numel() for parameter in Network(space, architecture).parameters())

    assert parameters == round(parameters_m(space, architecture) * 1e6)


def test_batch_norm_is_as_published():
    network = Network(load_space("tiny"), Architecture.from_names(load_space("tiny"), ["mbconv_k3_e3"] * 8))

    assert (network.stem.conv_norm.eps, network.stem.conv_norm.momentum) == (1e-3, 0.1)
    assert network.head.linear_norm.eps == 1e-5, (
        "the published code leaves the one-dimensional norm at PyTorch's default"
    )


def test_a_squeeze_stands_between_depthwise_norm_and_its_relu6():
    space = small_space("mbconv_k3_e6_se")
    network = trained_like(Network(space, Architecture.from_indices(space, [0, 0])))
    block, x = network.layers[0], torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        y = torch.nn.functional.relu6(block.expand_norm(block.expand(x)))
        y = block.depthwise_norm(block.depthwise(y))
        weight = torch.sigmoid(block.squeeze.expand(torch.relu(block.squeeze.reduce(y.mean((2, 3), keepdim=True)))))
        expected = block.project_norm(block.project(torch.nn.functional.relu6(y * weight)))

        torch.testing.assert_close(block(x), expected)
    assert block.squeeze.reduce.out_channels == 8 * 6 // 4


BARE = {"activation": "relu", "skip_activation": False, "head": {"channels": 24}, "first": None}


@pytest.mark.parametrize("changed", [{}, BARE, {"activation": "relu"}, {"skip_activation": False}])
@pytest.mark.parametrize("indices", [[0, 2], [1, 1], [2, 0], [2, 2]])
def test_the_deployed_graph_with_folded_weights_computes_the_same(indices, changed):
    """Skip at both places, residual or not, squeeze-and-excitation, all fields of a space: ONNX Runtime against PyTorch."""
    import onnxruntime

    from lightnas_edge.graph import model_bytes, network_model, weight_shapes

    record = {**small_space("mbconv_k5_e3", "mbconv_k3_e6_se", "skip").to_json(), **changed}
    space = Space.from_json({name: value for name, value in record.items() if value is not None})
    architecture = Architecture.from_indices(space, indices)
    network = trained_like(Network(space, architecture))
    weights = folded_weights(network)
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)

    model = network_model(space, architecture, batch=4, weights=weights)
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    (deployed,) = session.run(None, {session.get_inputs()[0].name: images})

    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(deployed, expected, atol=1e-4, rtol=1e-4)
    assert {name: value.shape for name, value in weights.items()} == dict(weight_shapes(space, architecture))


def test_folding_leaves_the_network_alone():
    space = small_space("mbconv_k3_e3")
    network = trained_like(Network(space, Architecture.from_indices(space, [0, 0])))
    before = {name: value.clone() for name, value in network.state_dict().items()}

    folded_weights(network)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
