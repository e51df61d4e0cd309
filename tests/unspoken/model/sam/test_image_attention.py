"""Attention computed in pieces, compared with segment-anything's module."""

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from unspoken.model.sam.image_attention import attend_piecewise

SIDE_PX, CELL_PX = 112, 16


def package_encoder():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=SIDE_PX,
        patch_size=CELL_PX,
        embed_dim=32,
        depth=2,
        num_heads=4,
        out_chans=16,
        use_rel_pos=True,
        window_size=3,  # seven cells a side: the last windows are padded
        global_attn_indexes=(1,),
    ).eval()
    for block in encoder.blocks:
        nn.init.normal_(block.attn.rel_pos_h)
        nn.init.normal_(block.attn.rel_pos_w)
    return encoder


@pytest.fixture
def images():
    return torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scores_at_once", [1, 1000, 1 << 21])
def test_pieces_of_any_size_give_the_packages_embedding(monkeypatch, images, scores_at_once):
    monkeypatch.setattr("unspoken.model.sam.image_attention.SCORES_AT_ONCE", scores_at_once)
    encoder = package_encoder()
    with torch.inference_mode():
        whole = encoder(images)
        attend_piecewise(encoder)
        torch.testing.assert_close(encoder(images), whole, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_as_near_as_the_packages_own(images):
    encoder = package_encoder()
    with torch.inference_mode():
        exact = encoder(images)
        with torch.autocast("cpu", torch.bfloat16):
            whole = encoder(images).float()
        attend_piecewise(encoder)
        with torch.autocast("cpu", torch.bfloat16):
            pieces = encoder(images).float()
    assert (pieces - exact).norm() < 1.2 * (whole - exact).norm() < 0.05 * exact.norm()


def test_what_learns_gets_the_packages_gradients(images):
    gradients = []
    for change in (lambda encoder: None, attend_piecewise):
        encoder = package_encoder()
        change(encoder)
        encoder(images).square().sum().backward()
        gradients.append(encoder.blocks[1].attn.rel_pos_h.grad)
    torch.testing.assert_close(*gradients)


def test_a_state_of_the_package_fits():
    encoder, state = package_encoder(), package_encoder().state_dict()
    attend_piecewise(encoder)
    assert list(encoder.state_dict()) == list(state)
    encoder.load_state_dict(state)
