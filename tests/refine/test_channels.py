"""What may vary in a network, and the network of each choice."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from lightnas_edge.errors import RunError
from lightnas_edge.nn import Network
from lightnas_edge.refine import Channels, Grid
from lightnas_edge.space import Architecture, load_space
from tests.refine.problems import FOUND, SPACE


def test_stages_share_a_width_and_blocks_have_an_expansion_of_their_own():
    grid = Grid(SPACE, FOUND)

    assert grid.stages == [[0, 1], [2, 3]]
    assert grid.widths == ((8,), (8, 12, 16))  # 8 * 0.75 and 8 * 1.25 both round to 8; 12 itself is no multiple
    assert grid.expansions == ((2, 3, 4), (2, 3), (0,), (2, 3, 4))
    assert grid.size == 3 * 3 * 2 * 3


def test_the_published_space_has_its_seven_stages():
    space = load_space("lightnas")
    grid = Grid(space, Architecture.from_indices(space, [1] * 21))

    assert [len(stage) for stage in grid.stages] == [2, 3, 4, 3, 4, 4, 1]
    assert grid.widths[0] == (16, 24, 32)
    assert grid.expansions[0] == (5, 6, 8)


def test_the_unchanged_choice_is_the_network_itself():
    space, architecture = Grid(SPACE, FOUND).network(Grid(SPACE, FOUND).unchanged)

    assert architecture.operators == FOUND.operators
    assert space.layers == SPACE.layers
    assert space.name == "small-refined"
    assert [shaped.key for shaped in space.chain(architecture)] == [shaped.key for shaped in SPACE.chain(FOUND)]


def test_a_choice_is_an_ordinary_network_of_a_derived_space():
    space, architecture = Grid(SPACE, FOUND).network(Channels((8, 16), (4, 2, 0, 3)))

    assert [layer.out_channels for layer in space.layers] == [8, 8, 16, 16]
    assert [layer.in_channels for layer in space.layers] == [4, 8, 8, 16]
    assert [operator.name for operator in space.operators] == ["mbconv_k3_e2", "mbconv_k5_e3", "mbconv_k5_e4", "skip"]
    assert architecture.slug == "k5e4-k3e2-skip-k5e3"
    assert space.head.in_channels == 16
    logits = Network(space, architecture).eval()(torch.zeros(2, 3, 16, 16))
    assert logits.shape == (2, 10)


def test_every_choice_is_made_of_the_operators_that_are_measured_and_no_others_are_measured():
    grid = Grid(SPACE, FOUND)
    used = set()
    for genes in itertools.product(*grid.genes):
        used |= set(grid.chain(grid.channels(genes)))

    assert used == set(grid.shaped_operators())


@pytest.mark.parametrize("activation", ["relu6", "relu"])
@pytest.mark.parametrize("skip_activation", [True, False])
def test_the_operators_that_are_measured_have_the_activation_of_the_space(activation, skip_activation):
    space = dataclasses.replace(SPACE, activation=activation, skip_activation=skip_activation)
    for indices in ([2, 0, 2, 1], [0, 2, 1, 2]):
        grid = Grid(space, Architecture.from_indices(space, indices))
        used = {
            shaped for genes in itertools.product(*grid.genes) for shaped in grid.chain(grid.channels(genes))
        }  # fmt: skip

        assert used == set(grid.shaped_operators())


def test_what_varies_can_be_restricted():
    assert Grid(SPACE, FOUND, vary="widths").size == 3
    assert Grid(SPACE, FOUND, vary="expansions").size == 3 * 2 * 3


def test_refining_what_was_refined_does_not_pile_up_names():
    space, architecture = Grid(SPACE, FOUND).network(Channels((8, 16), (4, 2, 0, 3)))

    again, _ = Grid(space, architecture).network(Channels((8, 24), (4, 2, 0, 3)))

    assert again.name == "small-refined"


def test_squeeze_and_excitation_stays_where_it_is():
    space = load_space("lightnas-se")
    architecture = Architecture.random(space, np.random.default_rng(1))
    grid = Grid(space, architecture)

    _, changed = grid.network(grid.channels([max(choices) for choices in grid.genes]))

    assert [operator.squeeze_excite for operator in changed.operators] == [
        operator.squeeze_excite for operator in architecture.operators
    ]
    assert any(operator.squeeze_excite for operator in changed.operators)


@pytest.mark.parametrize(
    ("factors", "message"), [((0.0,), "a positive number, found 0.0"), ((1.01,), "no channels vary")]
)
def test_factors_that_give_nothing_are_refused(factors, message):
    with pytest.raises(RunError, match=message):
        Grid(SPACE, FOUND, factors=factors, vary="expansions")
