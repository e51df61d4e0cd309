"""Deformable attention by embedding bags, compared with transformers' module."""

import pytest
import torch
from transformers.models.grounding_dino.modeling_grounding_dino import (
    MultiScaleDeformableAttention,
)

from unspoken.model.detector.deformable import BaggedDeformableAttention, use_bagged_attention

SHAPES = [(9, 12), (5, 6), (1, 3)]


@pytest.fixture
def asked():
    """Return inputs: two pictures, three heads, three levels, a third of the points outside."""
    torch.manual_seed(0)
    num_cells = [height * width for height, width in SHAPES]
    starts = torch.tensor([0, *num_cells]).cumsum(0)[:-1]
    value = torch.randn(2, sum(num_cells), 3, 8)
    locations = torch.rand(2, 7, 3, len(SHAPES), 4, 2) * 1.5 - 0.25
    weights = torch.rand(2, 7, 3, len(SHAPES), 4)
    return value, torch.tensor(SHAPES), SHAPES, starts, locations, weights, 64


def test_the_sum_is_that_of_transformers(asked):
    theirs, ours = MultiScaleDeformableAttention()(*asked), BaggedDeformableAttention()(*asked)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_points_on_the_edges_and_far_outside_are_those_of_transformers(asked):
    value, shapes, listed, starts, locations, weights, step = asked
    for place in (0.0, 1.0, -3.0, 50.0):
        given = (value, shapes, listed, starts, torch.full_like(locations, place), weights, step)
        theirs, ours = MultiScaleDeformableAttention()(*given), BaggedDeformableAttention()(*given)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_half_precision_stays_what_it_is(asked):
    value, *others = asked
    ours = BaggedDeformableAttention()(value.bfloat16(), *others)
    exact = BaggedDeformableAttention()(value, *others)
    assert ours.dtype == torch.bfloat16
    assert torch.allclose(ours.float(), exact, atol=0.1)


def test_every_such_module_of_a_network_is_replaced():
    network = torch.nn.Sequential(torch.nn.Sequential(MultiScaleDeformableAttention()))
    use_bagged_attention(network)
    assert isinstance(network[0][0], BaggedDeformableAttention)
