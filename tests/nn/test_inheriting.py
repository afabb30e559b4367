"""A network with weights from elsewhere computes what they computed there."""

import pytest
import torch

from lightnas_edge.nn import Network, Supernet, estimate_statistics, fit_weights, pass_features_on, path_weights
from lightnas_edge.space import Architecture
from tests.search.problems import SPACE

PATH = [2, 0, 1, 0]


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [torch.randn(8, 3, 16, 16) for _ in range(3)]


@pytest.mark.parametrize("entangled", [False, True])
def test_the_network_of_a_path_answers_as_the_supernet_does(batches, entangled):
    torch.manual_seed(0)
    supernet = Supernet(SPACE, entangled=entangled)
    network = Network(SPACE, Architecture.from_indices(SPACE, PATH))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5  # a supernet's; a network has 1e-3

    fitted = fit_weights(network, path_weights(supernet, PATH))
    estimate_statistics(network, batches)
    pass_features_on(network)

    with torch.no_grad(), supernet.calibrated(PATH, batches):
        wanted = supernet(batches[0], PATH)
        found = network.eval()(batches[0])
    assert torch.allclose(found, wanted, atol=1e-4), (found - wanted).abs().max()
    assert not fitted.other_shape and not fitted.unused
    assert "layers.1.depthwise.weight" in fitted.taken and "head.classifier.bias" in fitted.taken
    assert all("norm" in name for name in fitted.missing)


def test_statistics_are_means_over_the_batches_and_leave_the_network_as_it_was(batches):
    network = Network(SPACE, Architecture.from_indices(SPACE, PATH)).train()
    weights = {name: value.clone() for name, value in network.named_parameters()}

    estimate_statistics(network, batches)

    stem = torch.cat([network.stem.conv(batch).mean((0, 2, 3))[None] for batch in batches])
    assert torch.allclose(network.stem.conv_norm.running_mean, stem.mean(0), atol=1e-5)
    assert network.training and network.stem.conv_norm.momentum == 0.1
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())


def test_what_does_not_fit_is_named_and_stays_as_it_was():
    network = Network(SPACE, Architecture.from_indices(SPACE, PATH))
    other = Network(SPACE.with_classes(3), Architecture.from_indices(SPACE, [2, 1, 1, 0]))
    before = network.head.classifier.weight.clone()

    source = {**other.state_dict(), "unknown.weight": torch.ones(1)}
    del source["stem.conv.weight"]
    fitted = fit_weights(network, source)

    assert fitted.missing == ("stem.conv.weight",)
    assert {"head.classifier.weight", "layers.1.depthwise.weight"} <= set(fitted.other_shape)
    assert fitted.unused == ("unknown.weight",)
    assert torch.equal(network.head.classifier.weight, before)
    assert torch.equal(network.layers[2].expand.weight, other.layers[2].expand.weight)
    assert not fitted.statistics
    assert not any("running" in name for name in fitted.learned.other_shape)


def test_a_counter_of_batches_that_a_converter_dropped_costs_no_statistics():
    network = Network(SPACE, Architecture.from_indices(SPACE, PATH))
    state = network.state_dict()

    without = fit_weights(network, {name: value for name, value in state.items() if "num_batches" not in name})
    worse = fit_weights(network, {name: value for name, value in state.items() if "running_var" not in name})

    assert without.statistics and not worse.statistics
