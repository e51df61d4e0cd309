"""Regridding of weights: exact if the grid stays the same, approximate for other patches."""

from dataclasses import replace

import pytest
import torch

from unspoken.errors import InvalidConfig
from unspoken.model.sam.config import SemanticSamConfig, sam_config
from unspoken.model.sam.regrid import regrid
from unspoken.model.sam.semantic_sam import SemanticSam

OLD = sam_config("tiny")
FINE = replace(OLD, patch_size=OLD.patch_size // 2)


def network(sam):
    torch.manual_seed(0)
    return SemanticSam(SemanticSamConfig(sam=sam)).eval()


def test_the_same_grid_changes_nothing():
    state = network(OLD).state_dict()
    fitted = regrid(state, old=OLD, new=OLD)
    assert all(torch.allclose(fitted[name], tensor) for name, tensor in state.items())


def test_an_even_picture_has_the_same_patches_on_a_finer_grid():
    old, fine = network(OLD), network(FINE)
    fine.load_state_dict(regrid(old.state_dict(), old=OLD, new=FINE))
    even = torch.full((1, 3, OLD.image_size, OLD.image_size), 0.7)
    with torch.no_grad():
        before = old.image_encoder.patch_embed(even)
        after = fine.image_encoder.patch_embed(even)
    assert after.shape[1] == 2 * before.shape[1]
    assert torch.allclose(before[0, 0, 0], after[0, 0, 0], atol=1e-5)


def test_a_network_of_other_width_is_refused():
    wide = replace(OLD, encoder_width=64)
    with pytest.raises(InvalidConfig, match="only the grid"):
        regrid(network(OLD).state_dict(), old=OLD, new=wide)
