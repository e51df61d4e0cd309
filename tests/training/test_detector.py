"""Training the small detector: batches, losses, resuming, and the whole path at toy size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from smallworld.scenes import present_labels, unknown_part_labels
from training.data_parallel import ONE_PROCESS
from training.detector.backbone import phrase_vectors, thaw_batch_norm
from training.detector.data import DetectionBatch, DetectionDataset, choose_absent
from training.detector.losses import (
    LossConfig,
    PhraseLabels,
    StageOutput,
    decoder_loss,
)
from training.detector.recipe import recipe_named
from training.detector.train import CHECKPOINT, find_text_encoder, train_detector
from training.detector.trainer import DetectorTrainer
from unspoken.errors import InvalidInput
from unspoken.model.detector.grounding_dino import (
    build_small_detector,
    cache_phrases,
    load_small_detector,
)

SMOKE = recipe_named("smoke")


@pytest.fixture(scope="module")
def dataset() -> DetectionDataset:
    tokenizer = AutoTokenizer.from_pretrained(find_text_encoder())
    return DetectionDataset(SMOKE.data, detector=SMOKE.detector, tokenizer=tokenizer)


def new_trainer(dataset: DetectionDataset) -> DetectorTrainer:
    torch.manual_seed(0)
    model = build_small_detector(SMOKE.detector, text_encoder_dir=find_text_encoder())
    cache = cache_phrases(model)
    thaw_batch_norm(model)
    vocabulary = dataset.source.vocabulary
    words = [*vocabulary.wholes, *vocabulary.parts]
    return DetectorTrainer(
        SMOKE,
        model,
        word_vectors=phrase_vectors(words, cache=cache, tokenizer=dataset.tokenizer),
        num_wholes=len(vocabulary.wholes),
    )


def steps(trainer: DetectorTrainer, dataset: DetectionDataset, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        batch = dataset[trainer.num_steps]
        losses.append(
            trainer.step(batch, progress=trainer.num_steps / 100, ranks=ONE_PROCESS)["loss"]
        )
    return losses


def test_the_same_number_gives_the_same_batch(dataset: DetectionDataset) -> None:
    first, again, other = dataset[3], dataset[3], dataset[4]
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.prompt.input_ids, again.prompt.input_ids)
    assert not torch.equal(first.pixels, other.pixels)


def test_labels_point_at_the_phrases_of_their_own_picture(dataset: DetectionDataset) -> None:
    batch = replace_share(dataset)[0]
    config = SMOKE.data
    for row in range(config.batch_size):
        scene = dataset.source.scene(row, size_px=(SMOKE.detector.image_size, 192)[row % 2])
        for label, thing in zip(batch.labels[row], scene.objects, strict=True):
            ids = batch.prompt.input_ids[row][batch.prompt.phrase_maps[row, label]]
            assert dataset.tokenizer.decode(ids) == thing.label


def replace_share(dataset: DetectionDataset) -> DetectionDataset:
    """Return a dataset with the same batches but without synonyms."""
    config = replace(SMOKE.data, synonym_share=0.0)
    return DetectionDataset(config, detector=SMOKE.detector, tokenizer=dataset.tokenizer)


def test_absent_labels_are_surely_absent(dataset: DetectionDataset) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        scene = dataset.source.scene(number, size_px=96)
        absent = choose_absent(
            scene, vocabulary=dataset.source.vocabulary, count=5, theme_share=0.5, rng=rng
        )
        assert len(set(absent)) == len(absent)
        assert not set(absent) & (present_labels(scene) | unknown_part_labels(scene))


def test_each_picture_of_a_batch_is_taught_its_own_labels(dataset: DetectionDataset) -> None:
    """The library's loss teaches the second picture the labels of the first."""
    batch = dataset[0]
    maps = batch.prompt.phrase_maps.float()
    labels = PhraseLabels(maps, maps / maps.sum(-1, keepdim=True).clamp(min=1), batch.judged)

    def loss_of(shown: DetectionBatch) -> float:
        num = max(len(each) for each in shown.boxes)
        logits = torch.full((len(shown.boxes), num, maps.shape[-1]), -12.0)
        boxes = torch.full((len(shown.boxes), num, 4), 0.02)
        for b, (names, truth) in enumerate(zip(shown.labels, shown.boxes, strict=True)):
            boxes[b, : len(truth)] = truth
            for n, name in enumerate(names):
                logits[b, n] += 24 * maps[b, name]
        stage = StageOutput(logits, boxes)
        return float(decoder_loss(stage, batch, labels=labels, config=LossConfig())["label"])

    right = loss_of(batch)
    wrong = loss_of(batch._replace(labels=[(each + 1) % 3 for each in batch.labels]))
    assert right < 0.01
    assert wrong > 1


def test_the_loss_falls_and_a_killed_run_goes_on_as_if_it_had_not_been(
    dataset: DetectionDataset,
) -> None:
    whole = new_trainer(dataset)
    losses = steps(whole, dataset, 10)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])

    killed = new_trainer(dataset)
    before = steps(killed, dataset, 6)
    resumed = new_trainer(dataset)
    resumed.load_state(killed.state())
    after = steps(resumed, dataset, 4)
    assert before + after == pytest.approx(losses, rel=1e-3)
    for name, parameter in whole.learned.items():
        torch.testing.assert_close(resumed.learned[name], parameter, atol=1e-3, rtol=1e-2)


def test_a_recipe_writes_weights_that_load(tmp_path: Path) -> None:
    recipe = replace(SMOKE, log_every=1)
    train_detector(recipe, out=tmp_path, minutes=0.05)
    assert (tmp_path / CHECKPOINT).is_file()
    assert (tmp_path / "log.jsonl").read_text().count("val_wholes") == 1
    loaded = load_small_detector(tmp_path / "weights", text_encoder_dir=find_text_encoder())
    assert loaded.config.image_size == SMOKE.detector.image_size
    train_detector(recipe, out=tmp_path, minutes=0.05)  # its time is over already


def test_a_recipe_with_two_processes_trains_in_both_stages(tmp_path: Path) -> None:
    recipe = replace(SMOKE, num_processes=2)
    train_detector(recipe, out=tmp_path, minutes=0.05)
    assert (tmp_path / "weights").is_dir()


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InvalidInput, match="small-detector"):
        recipe_named("smal-detector")
