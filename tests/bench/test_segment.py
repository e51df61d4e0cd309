"""Parts of the segment benchmark at the smallest size: its drawn masks and its queries."""

import numpy as np
import pytest
import torch

from bench.segment import count_hits
from bench.shared.random_models import TEXTS, build_engine, street
from bench.shared.served_segmenter import NUM_MASKS, artificial_bank, serve
from tests.fakes import FakeTextEncoder


def test_a_bank_is_drawn_that_one_text_in_some_finds():
    bank = artificial_bank(FakeTextEncoder(), (48, 64))
    assert len(bank) == NUM_MASKS and (bank.areas > 0).all()
    assert np.allclose(np.linalg.norm(bank.mask_embedding, axis=1), 1, atol=1e-5)
    cosines = bank.mask_embedding @ FakeTextEncoder().encode_texts(TEXTS).T
    assert (cosines.max(1) > 0.6).sum() == NUM_MASKS // 4


@pytest.mark.parametrize("sent", [False, True])
def test_a_warm_picture_is_asked_over_http(sent):
    torch.manual_seed(0)
    engine, texts = build_engine("tiny", FakeTextEncoder()), FakeTextEncoder()
    with serve(engine, texts) as served:
        assert served.ask(TEXTS, mask="rle", sent=sent) > 0
        assert 0 < count_hits(served) <= NUM_MASKS
    image = engine.cache.get(engine.image_id(street().sha256))
    assert image is not None and image.bank is not None
