"""CLIP-ReID's text side: prompts of fixed and learned tokens, read at the end token."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from published import clip_reid_state
from safetensors.torch import save_file
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.clip_text import PROMPT_TOKENS, PromptedText, load_prompted_text

CONTEXT = 20


def small_text(seed: int = 0) -> PromptedText:
    torch.manual_seed(seed)
    text = PromptedText(identities=6, width=64, depth=2, context_length=CONTEXT, projection_dim=10)
    text.prompt_learner.token_prefix.normal_()
    text.prompt_learner.token_suffix.normal_()
    return text.eval()


def test_prompt_tokens_are_clips_own() -> None:
    tokens = open_clip.SimpleTokenizer()("A photo of a X X X X person.")[0].tolist()
    assert tuple(tokens[: len(PROMPT_TOKENS)]) == PROMPT_TOKENS
    assert set(tokens[len(PROMPT_TOKENS) :]) == {0}


def test_prompt_is_prefix_learned_suffix() -> None:
    learner = small_text().prompt_learner
    prompts = learner(torch.tensor([4, 0]))
    assert prompts.shape == (2, CONTEXT, 64)
    assert torch.equal(prompts[0, :5], learner.token_prefix[0])
    assert torch.equal(prompts[0, 5:9], learner.cls_ctx[4])
    assert torch.equal(prompts[1, 5:9], learner.cls_ctx[0])
    assert torch.equal(prompts[1, 9:], learner.token_suffix[0])


@torch.inference_mode()
def test_feature_is_taken_at_the_end_token_and_sees_nothing_behind_it() -> None:
    text = small_text()
    identities = torch.tensor([0, 1, 5])
    before = text(identities)
    assert before.shape == (3, 10)
    # Suffix entry k is token 9 + k: the end token is number 11, so entry 2; entry 3 is padding behind it.
    text.prompt_learner.token_suffix[:, 3:].normal_()
    assert torch.allclose(text(identities), before, atol=1e-6)
    text.prompt_learner.token_suffix[:, 2].normal_()
    assert not torch.allclose(text(identities), before, atol=1e-3)


@pytest.mark.parametrize("form", ["beside the image tower", "reid-task", "half precision", "folder"])
def test_text_side_is_read_from_a_checkpoint(form: str, tmp_path: Path) -> None:
    text = small_text()
    state = dict(text.state_dict())
    path = tmp_path / "x.pth"
    if form == "beside the image tower":
        torch.save(clip_reid_state(tiny_model(TINY_CONFIGS["clip_vit"])) | state, path)
    elif form == "reid-task":
        extra = {
            "prompt_learner.token_embedding.weight": torch.ones(3, 64),
            "prompt_learner_stage0.token_embedding.weight": torch.ones(3, 64),
        }
        torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in (state | extra).items()}}, path)
    elif form == "half precision":
        text.load_state_dict({name: tensor.half().float() for name, tensor in state.items()})
        torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    else:
        save_file(state, tmp_path / "model.safetensors")
        path = tmp_path
    opened = load_prompted_text(path)
    identities = torch.arange(6)
    with torch.inference_mode():
        assert torch.equal(opened(identities), text(identities))
    assert not opened.training


def test_files_without_a_text_side_that_fits(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", dict(small_text().state_dict())
    torch.save(clip_reid_state(tiny_model(TINY_CONFIGS["clip_vit"])), path)
    with pytest.raises(CheckpointError, match=r"has no 'prompt_learner\.cls_ctx', so no prompts"):
        load_prompted_text(path)
    for change, message in (
        ({"text_encoder.ln_final.bias": None}, r"Missing key\(s\).*text_encoder\.ln_final\.bias"),
        ({"text_encoder.more": torch.ones(1)}, r"Unexpected key\(s\).*text_encoder\.more"),
        ({"text_encoder.ln_final.bias": torch.ones(3)}, r"size mismatch for text_encoder\.ln_final\.bias"),
        ({"text_encoder.transformer.resblocks.0.ln_1.bias": None}, r"resblocks\.0\.ln_1\.bias"),
        ({"prompt_learner.cls_ctx": torch.ones(6)}, r"prompt_learner\.cls_ctx"),
        ({"text_encoder.text_projection": torch.ones(64)}, r"text_encoder\.text_projection"),
    ):
        torch.save({name: t for name, t in (state | change).items() if t is not None}, path)
        with pytest.raises(CheckpointError, match=message):
            load_prompted_text(path)
