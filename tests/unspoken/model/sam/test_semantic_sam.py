"""The network against the segment-anything package, on the same random weights at ViT-B size."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from unspoken.errors import InvalidInput
from unspoken.model.sam.config import ISOLATED, SemanticConfig, SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_decoder import NUM_NEW_TOKENS, MaskPool, pool_masks
from unspoken.model.sam.semantic_sam import BOX_LOGIT, Prompts, SemanticSam, draw_boxes, is_new

PARITY = 1e-5  # two orders of summation in float32
CELLS = 64


@pytest.fixture(scope="module")
def oracle() -> Sam:
    """Build the package's ViT-B with small weights, so that logits stay near one."""
    torch.manual_seed(0)
    return sam_model_registry["vit_b"]()


def like(oracle: Sam, semantic: SemanticConfig = ISOLATED) -> SemanticSam:
    torch.manual_seed(1)
    model = SemanticSam(SemanticSamConfig(sam=sam_config("vit_b"), semantic=semantic))
    missing, unexpected = model.load_state_dict(oracle.state_dict(), strict=False)
    assert not unexpected
    assert all(is_new(name) for name in missing)
    return model.eval()


@pytest.fixture(scope="module")
def isolated(oracle: Sam) -> SemanticSam:
    return like(oracle)


@pytest.fixture(scope="module")
def embeddings() -> Tensor:
    """Return random embeddings of two pictures, because the encoder is the package's own class."""
    return torch.randn(2, 256, CELLS, CELLS, generator=torch.Generator().manual_seed(2))


def some_prompts(kind: str) -> Prompts:
    generator = torch.Generator().manual_seed(3)
    index = torch.tensor([0, 1, 1])
    points = torch.rand(3, 2, 2, generator=generator) * 1000
    boxes = torch.tensor([[100.0, 50, 400, 300], [5, 5, 1000, 900], [600, 10, 700, 90]])
    masks = torch.randn(3, 1, 256, 256, generator=generator)
    match kind:
        case "point":
            return Prompts(index, points=points[:, :1], point_labels=torch.ones(3, 1))
        case "points":
            return Prompts(index, points=points, point_labels=torch.tensor([[1, 0]] * 3))
        case "box":
            return Prompts(index, boxes=boxes)
        case "box_and_points":
            return Prompts(index, points=points, point_labels=torch.ones(3, 2), boxes=boxes)
        case _:
            return Prompts(index, boxes=boxes, mask_logits=masks)


@torch.no_grad()
def ask_package(
    oracle: Sam, embeddings: Tensor, prompts: Prompts, *, multimask_output: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode one prompt at a time, because the package's decoder takes one picture per call."""
    for row, picture in enumerate(prompts.image_index.tolist()):
        one = slice(row, row + 1)
        points = None
        if prompts.points is not None and prompts.point_labels is not None:
            points = (prompts.points[one], prompts.point_labels[one])
        sparse, dense = oracle.prompt_encoder(
            points=points,
            boxes=None if prompts.boxes is None else prompts.boxes[one],
            masks=None if prompts.mask_logits is None else prompts.mask_logits[one],
        )
        yield oracle.mask_decoder(
            image_embeddings=embeddings[picture : picture + 1],
            image_pe=oracle.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )


@pytest.mark.parametrize("multimask_output", [False, True], ids=["single", "multimask"])
@pytest.mark.parametrize("kind", ["point", "points", "box", "box_and_points", "mask"])
@torch.no_grad()
def test_isolated_masks_are_those_of_the_package(
    oracle: Sam,
    isolated: SemanticSam,
    embeddings: Tensor,
    kind: str,
    multimask_output: bool,
) -> None:
    prompts = some_prompts(kind)
    output = isolated.decode(embeddings, prompts, multimask_output=multimask_output)
    rows = list(ask_package(oracle, embeddings, prompts, multimask_output=multimask_output))
    logits, quality = (torch.cat(each) for each in zip(*rows, strict=True))
    scale = max(1.0, float(logits.abs().max()))
    assert (output.mask_logits - logits).abs().max() < PARITY * scale
    assert (output.iou_predictions - quality).abs().max() < PARITY
    assert torch.equal(output.mask_logits > 0, logits > 0) or _nearly_all_agree(output, logits)


def _nearly_all_agree(output: object, logits: Tensor) -> bool:
    """Check that signs differ only where a logit is zero up to rounding."""
    mine = output.mask_logits  # type: ignore[attr-defined]
    differ = (mine > 0) != (logits > 0)
    return bool((logits[differ].abs() < PARITY).all())


def test_pictures_are_made_ready_as_the_package_makes_them(
    oracle: Sam, isolated: SemanticSam
) -> None:
    picture = torch.randint(0, 255, (3, 768, 1024), generator=torch.Generator().manual_seed(4))
    assert torch.equal(isolated.prepare([picture]), oracle.preprocess(picture.float())[None])


def test_the_encoders_are_the_package_s_own(oracle: Sam, isolated: SemanticSam) -> None:
    assert type(isolated.image_encoder) is type(oracle.image_encoder)
    assert type(isolated.prompt_encoder) is type(oracle.prompt_encoder)
    theirs = oracle.state_dict()
    own = {name: tensor for name, tensor in isolated.state_dict().items() if not is_new(name)}
    assert set(own) == set(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())


@torch.no_grad()
def test_the_new_tokens_cannot_move_isolated_masks_at_all(
    isolated: SemanticSam, embeddings: Tensor
) -> None:
    prompts = some_prompts("box")
    before = isolated.decode(embeddings, prompts, multimask_output=True)
    kept = isolated.mask_decoder.semantic_tokens.weight.clone()
    isolated.mask_decoder.semantic_tokens.weight.mul_(50)
    after = isolated.decode(embeddings, prompts, multimask_output=True)
    isolated.mask_decoder.semantic_tokens.weight.copy_(kept)
    assert torch.equal(before.mask_logits, after.mask_logits)
    assert torch.equal(before.iou_predictions, after.iou_predictions)
    assert not torch.equal(before.mask_embedding, after.mask_embedding)


@torch.no_grad()
def test_joint_tokens_move_the_masks(
    oracle: Sam, isolated: SemanticSam, embeddings: Tensor, record_property: object
) -> None:
    joint = like(oracle, SemanticConfig(token_attention="joint"))
    prompts = some_prompts("point")
    own = isolated.decode(embeddings, prompts, multimask_output=True).mask_logits
    moved = joint.decode(embeddings, prompts, multimask_output=True).mask_logits
    drift = float((moved - own).norm() / own.norm())
    flipped = float(((moved > 0) != (own > 0)).float().mean())
    record_property("joint_drift", f"{drift:.3f}, {flipped:.3f} of the pixels")  # type: ignore[operator]
    assert drift > 1e-3


@torch.no_grad()
def test_the_order_of_the_new_tokens_means_nothing(
    isolated: SemanticSam, embeddings: Tensor
) -> None:
    prompts = some_prompts("box")
    decoder = isolated.mask_decoder
    before = isolated.decode(embeddings, prompts, multimask_output=True)
    order = torch.tensor([0, 3, 1, 2])
    tokens = decoder.semantic_tokens.weight.clone()
    decoder.semantic_tokens.weight.copy_(tokens[order])
    heads = list(decoder.semantic_heads)
    decoder.semantic_heads = torch.nn.ModuleList([heads[i] for i in order.tolist()])
    after = isolated.decode(embeddings, prompts, multimask_output=True)
    decoder.semantic_tokens.weight.copy_(tokens)
    decoder.semantic_heads = torch.nn.ModuleList(heads)
    difference = after.mask_embedding - before.mask_embedding[:, order[1:] - 1]
    assert difference.abs().max() < PARITY


@torch.no_grad()
def test_every_mask_has_a_unit_vector_and_a_predicted_similarity(
    isolated: SemanticSam, embeddings: Tensor
) -> None:
    output = isolated.decode(embeddings, some_prompts("box"), multimask_output=True)
    assert output.mask_logits.shape == (3, 3, 256, 256)
    assert output.mask_embedding.shape == (3, 3, 768)
    assert output.similarity.shape == (3, 3)
    assert torch.allclose(output.mask_embedding.norm(dim=-1), torch.ones(3, 3), atol=1e-5)


def test_no_prompts_give_no_masks(isolated: SemanticSam, embeddings: Tensor) -> None:
    none = Prompts(torch.zeros(0, dtype=torch.long), boxes=torch.zeros(0, 4))
    output = isolated.decode(embeddings, none, multimask_output=False)
    assert output.mask_logits.shape == (0, 1, 256, 256)


def test_the_new_parts_are_as_large_as_the_design_says(isolated: SemanticSam) -> None:
    sizes = {n: p.numel() for n, p in isolated.named_parameters() if is_new(n)}
    assert sum(sizes.values()) == 1_280 + 1_315_840 + 132_612 + 1
    assert NUM_NEW_TOKENS == 5


@pytest.mark.parametrize(
    ("train", "learns", "rests"),
    [
        ("new_only", "mask_decoder.semantic_tokens.weight", "mask_decoder.mask_tokens.weight"),
        ("decoder", "mask_decoder.mask_tokens.weight", "image_encoder.pos_embed"),
        ("decoder+encoder", "image_encoder.pos_embed", "prompt_encoder.no_mask_embed.weight"),
        ("all", "prompt_encoder.no_mask_embed.weight", None),
    ],
)
def test_only_what_the_switch_names_learns(train: str, learns: str, rests: str | None) -> None:
    semantic = SemanticConfig(train=train)  # type: ignore[arg-type]
    model = SemanticSam(SemanticSamConfig(sam=sam_config("tiny"), semantic=semantic))
    names = model.choose_trained()
    assert learns in names
    assert rests not in names


def test_a_picture_that_is_too_large_is_refused() -> None:
    model = SemanticSam(SemanticSamConfig(sam=sam_config("tiny")))
    with pytest.raises(InvalidInput, match="must fit 64 px, got 65 x 10"):
        model.prepare([torch.zeros(3, 65, 10)])


def test_a_drawn_box_covers_its_cells_by_their_share() -> None:
    config = sam_config("tiny")
    cell = config.image_size / config.mask_side
    box = torch.tensor([[2.0, 3, 4.5, 5]]) * cell
    share = (draw_boxes(box, config)[0, 0] / BOX_LOGIT + 1) / 2
    assert share.sum() == pytest.approx(2.5 * 2)
    assert share[3:5, 2:4].eq(1).all()
    assert share[3:5, 4].eq(0.5).all()


def test_a_network_that_draws_boxes_answers_as_if_the_drawing_were_sent() -> None:
    torch.manual_seed(0)
    plain = sam_config("tiny")
    network = SemanticSam(SemanticSamConfig(sam=replace(plain, draws_boxes=True))).eval()
    picture = torch.rand(1, plain.decoder_width, plain.embedding_side, plain.embedding_side)
    box = torch.tensor([[8.0, 8, 30, 40]])
    index = torch.zeros(1, dtype=torch.long)
    drawing = Prompts(index, boxes=box, mask_logits=draw_boxes(box, plain))
    with torch.no_grad():
        drawn = network.decode(picture, Prompts(index, boxes=box), multimask_output=False)
        sent = network.decode(picture, drawing, multimask_output=False)
    assert torch.equal(drawn.mask_logits, sent.mask_logits)


def test_a_mask_pools_the_mean_of_the_cells_it_covers() -> None:
    embedding = torch.arange(2 * 3 * 4.0).view(1, 2, 3, 4)
    logits = torch.full((1, 2, 12, 16), -30.0)
    logits[0, 0, 4:8, 0:8] = 30.0  # the first two cells of the middle row; the other mask is empty
    pooled = pool_masks(embedding, logits)
    assert torch.allclose(pooled[0, 0], embedding[0, :, 1, :2].mean(-1))
    assert torch.allclose(pooled[0, 1], torch.zeros(2), atol=1e-4)


def test_what_masks_are_called_does_not_move_them() -> None:
    logits = torch.zeros(1, 4, 8, 8, requires_grad=True)
    assert not pool_masks(torch.rand(1, 3, 2, 2), logits).requires_grad


def test_faint_channels_are_heard_as_loud_as_others_once_a_pool_is_standardised() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(4, 3, 8, 8) * torch.tensor([10.0, 1.0, 0.01]).view(1, 3, 1, 1) + 5
    pool = MaskPool(3)
    torch.nn.init.eye_(pool.linear.weight)
    torch.nn.init.zeros_(pool.linear.bias)
    pool.standardise(embeddings)
    one_cell = torch.full((4, 1, 32, 32), -30.0)
    one_cell[:, :, :4, :4] = 30.0
    heard = pool(embeddings, one_cell)[:, 0]
    expected = (embeddings[:, :, 0, 0] - pool.mean) / pool.std
    assert torch.allclose(heard, expected, atol=1e-3)
    assert heard.abs().mean(0).min() > 0.1
