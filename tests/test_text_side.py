"""The text side of a run: where it comes from, and what each person's text feature is in each epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip.model
import pytest
import torch
from tiny import SMALL, TINY_CONFIGS
from torch import Tensor

from modelscope_reid.config import ClipVitConfig
from modelscope_reid.datasets.records import Record
from modelscope_reid.errors import ConfigError
from modelscope_reid.models.clip_text import CONTEXT_LENGTH, tokenize
from modelscope_reid.training import text_side
from modelscope_reid.training.people import TrainingSplit
from modelscope_reid.training.recipe import CaptionSpec, ModelSpec, Recipe
from modelscope_reid.training.stage_specs import PromptStage
from modelscope_reid.training.text_side import TextSide

RECORDS = tuple(
    Record(Path(f"/images/{name}.jpg"), int(name[:4]), 0) for name in ("0009_a", "0001_a", "0005_a", "0001_b")
)
SPLIT = TrainingSplit(RECORDS, {1: 0, 5: 1, 9: 2}, {0: 0}, None)
CONFIG = ClipVitConfig(width=64, depth=2, projection_dim=8, preprocessing=SMALL, num_classes=3)
RED, BLUE, HAT = "a red coat", "a blue coat", "a man with a hat"
CAPTIONS = {"0001_a.jpg": [RED], "0001_b.jpg": [BLUE], "0009_a.jpg": [HAT]}
"""Person 1, label 0, is told by two captions; person 9, label 2, by one; person 5 by none."""


@pytest.fixture
def captions(tmp_path: Path) -> str:
    path = tmp_path / "captions.json"
    entries = [{"file_path": name, "id": int(name[:4]), "captions": texts} for name, texts in CAPTIONS.items()]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


def side(config: Any = CONFIG, *, seed: int = 0, model: dict[str, Any] | None = None, **caption_texts: Any) -> TextSide:
    """A text side of random weights, or of those that `model` names."""
    spec = ModelSpec(**{"backbone": "clip_vit_base", "text_width": 16, "text_depth": 1} | (model or {}))
    recipe = Recipe(model=spec, seed=seed, prompts=PromptStage(), caption_texts=CaptionSpec(**caption_texts))
    return TextSide(recipe, SPLIT, config)


@torch.no_grad()
def prompted(text: TextSide) -> Tensor:
    assert text.prompts is not None
    features: Tensor = text.prompts(torch.arange(3))
    return features


@torch.no_grad()
def told(text: TextSide, caption: str) -> Tensor:
    feature: Tensor = text.encoder(tokenize([caption]))[0]
    return feature


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def described(text: TextSide, epoch: int) -> list[str | None]:
    """By which caption each person is described in an epoch; None is by its prompt. Exactly one must fit."""
    prompts, features = prompted(text), text.text_features(epoch)
    found: list[str | None] = []
    for label in range(3):
        known = {None: prompts[label], **{caption: told(text, caption) for caption in (RED, BLUE, HAT)}}
        (fitting,) = [caption for caption, feature in known.items() if close(features[label], feature)]
        found.append(fitting)
    return found


@pytest.mark.parametrize("family", ["osnet", "pass_vit", "transreid_vit"])
def test_text_needs_clips_image_tower(family: str) -> None:
    with pytest.raises(ConfigError, match=f"its backbone is a {family}; text needs CLIP's image towers"):
        side(TINY_CONFIGS[family])


@pytest.mark.parametrize("family", ["clip_vit", "clip_resnet"])
def test_a_random_tower_ends_in_the_image_towers_width(family: str) -> None:
    text = side(TINY_CONFIGS[family])
    assert text.encoder.text_encoder.projection_dim == {"clip_vit": 32, "clip_resnet": 16}[family]
    assert (text.encoder.text_encoder.width, text.encoder.text_encoder.context_length) == (16, CONTEXT_LENGTH)


def test_without_captions_features_are_the_prompts_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_side, "TEXTS_AT_ONCE", 2)  # three people: a full chunk and one that is not
    text = side()
    assert text.captions_by_label == text.captions_by_record == []
    text.start_prompts()
    first = text.text_features(0)
    assert first.shape == (3, 8) and first.dtype == torch.float32 and not first.requires_grad
    torch.testing.assert_close(first, prompted(text))
    assert len(first.unique(dim=0)) == 3
    for epoch in (1, 7, 10, 59):
        assert text.text_features(epoch) is first  # the tower is run once


def test_features_are_the_same_under_mixed_precision(captions: str) -> None:
    inside, outside = (side(path=captions, probability=1.0) for _ in range(2))
    for text in (inside, outside):
        text.start_prompts()
    with torch.autocast("cpu", torch.bfloat16):
        found = inside.text_features(0)
    assert torch.equal(found, outside.text_features(0))


def test_captions_are_found_by_record_and_by_person(captions: str) -> None:
    text = side(path=captions)
    assert text.captions_by_record == [(HAT,), (RED,), (), (BLUE,)]
    assert text.captions_by_label == [(RED, BLUE), (), (HAT,)]


def test_with_certainty_who_has_a_caption_is_described_by_it(captions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_side, "TEXTS_AT_ONCE", 1)
    text = side(path=captions, probability=1.0, redraw_every=1)
    text.start_prompts()
    epochs = [described(text, epoch) for epoch in range(10)]
    # A fair coin shows one side alone in ten throws for 2 seeds in 1024.
    assert {found[0] for found in epochs} == {RED, BLUE}
    assert {tuple(found[1:]) for found in epochs} == {(None, HAT)}


def test_with_no_chance_all_keep_their_prompts(captions: str) -> None:
    text = side(path=captions, probability=0.0, redraw_every=1)
    text.start_prompts()
    assert [described(text, epoch) for epoch in range(4)] == [[None] * 3] * 4


def test_captions_are_drawn_anew_every_few_epochs_and_by_the_epoch_alone(captions: str) -> None:
    options = {"path": captions, "probability": 0.5, "redraw_every": 3}
    text = side(**options)
    text.start_prompts()
    drawn = [described(text, epoch) for epoch in range(15)]
    for start in range(0, 15, 3):
        assert drawn[start] == drawn[start + 1] == drawn[start + 2]
    # Five draws of six equally or more likely outcomes each: all the same for less than 1 seed in 100.
    assert len({tuple(found) for found in drawn}) > 1
    resumed = side(**options)
    resumed.start_prompts()
    assert [described(resumed, epoch) for epoch in (8, 4, 14)] == [drawn[8], drawn[4], drawn[14]]


def test_the_state_goes_there_and_back(captions: str) -> None:
    text, other = side(path=captions, probability=1.0), side(path=captions, probability=1.0, seed=1)
    for one in (text, other):
        one.start_prompts()
    with torch.no_grad():  # both have been trained: away from what a seed gives
        for parameter in (*text.encoder.parameters(), text.prompts.prompt_learner.cls_ctx):  # type: ignore[union-attr]
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    other.seed = text.seed  # the draws are the recipe's, not the state's
    expected = text.text_features(0)
    assert not close(other.text_features(0), expected)
    other.load_state_dict(text.state_dict())
    assert torch.equal(other.text_features(0), expected)
    assert torch.equal(prompted(other), prompted(text))


def test_a_state_from_before_the_prompts_has_none(captions: str) -> None:
    text, other = side(path=captions), side(path=captions, seed=1)
    other.load_state_dict(text.state_dict())
    assert other.prompts is None
    assert torch.equal(told(other, RED), told(text, RED))
    # Prompts that start now are put before the tower that was taken over.
    fixed = other.start_prompts().prompt_learner.get_buffer("token_prefix")
    assert torch.equal(fixed[0, 1], text.encoder.token_embedding.weight[320].detach())  # "a"


def write_clip(path: Path, *, quick_gelu: bool = True) -> open_clip.model.CLIP:
    """Write a small CLIP that ends in 24 numbers, every weight random, and return it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.model.CLIP(
            24,
            open_clip.model.CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32),
            open_clip.model.CLIPTextCfg(width=64, heads=1, layers=1),
            quick_gelu=quick_gelu,
        ).eval()
        with torch.no_grad():
            for parameter in clip.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    torch.save(clip.state_dict(), path)
    return clip


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("told_by", ["weights", "text_weights"])
def test_weights_are_clips(told_by: str, quick_gelu: bool, tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    clip = write_clip(path, quick_gelu=quick_gelu)
    elsewhere = {"weights": "/nowhere"} if told_by == "text_weights" else {}
    activation = "quick_gelu" if quick_gelu else "gelu"
    config = ClipVitConfig(width=64, depth=2, projection_dim=24, preprocessing=SMALL, activation=activation)
    text = side(config, model={told_by: str(path), **elsewhere})
    with torch.no_grad():
        expected = clip.encode_text(tokenize([RED]))[0]
    torch.testing.assert_close(told(text, RED), expected, rtol=1e-4, atol=1e-5)


def test_towers_of_two_clips_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    write_clip(path)
    words = r"clip\.pt ends in 24 numbers and the image tower in 8; give model\.text_weights of the same CLIP"
    with pytest.raises(ConfigError, match=words):
        side(model={"text_weights": str(path)})


def test_a_random_tower_beside_weights_without_a_text_side() -> None:
    """Our own model folders have no text; such weights are then not even asked for a text tower."""
    states = [
        side(model=given).state_dict()["encoder"] for given in ({"weights": "/nowhere", "text_weights": "random"}, {})
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
