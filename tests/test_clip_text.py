"""CLIP's text side: captions and CLIP-ReID's prompts, read at the end token; open_clip's own CLIP is the oracle."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from published import clip_reid_state
from safetensors.torch import save_file
from tiny import TINY_CONFIGS, tiny_model
from torch import Tensor

from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.models.clip_text import (
    PROMPT_TOKENS,
    CaptionEncoder,
    PromptedText,
    TextTower,
    caption_encoder_from_clip,
    load_prompted_text,
    prompted_by,
    prompted_text_from_clip,
    random_caption_encoder,
    random_prompted_text,
    tokenize,
)

CONTEXT = 20
WIDTH = 128
CAPTIONS = [
    "A woman in a red coat carries a white bag.",
    "Short hair, jeans.",
    "The man wears a grey shirt, black trousers and shoes, " * 12,  # longer than the context
]
NUMBERS = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}


def small_text(seed: int = 0) -> PromptedText:
    torch.manual_seed(seed)
    text = PromptedText(identities=6, width=64, depth=2, context_length=CONTEXT, projection_dim=10)
    text.prompt_learner.token_prefix.normal_()
    text.prompt_learner.token_suffix.normal_()
    return text.eval()


def test_prompt_tokens_are_clips_own() -> None:
    tokens = tokenize(["A photo of a X X X X person."])
    assert tokens.shape == (1, 77) and tokens.dtype == torch.int64
    assert tuple(tokens[0, : len(PROMPT_TOKENS)].tolist()) == PROMPT_TOKENS
    assert set(tokens[0, len(PROMPT_TOKENS) :].tolist()) == {0}


def test_long_captions_are_cut_and_still_end() -> None:
    # 49406 start, 320 "a", 1125 "photo", 539 "of", 343 "x", 49407 end
    assert tokenize(["a photo of a x", "A"], context_length=4).tolist() == [
        [49406, 320, 1125, 49407],
        [49406, 320, 49407, 0],
    ]
    assert torch.equal(tokenize(CAPTIONS), open_clip.get_tokenizer("ViT-B-16")(CAPTIONS))
    assert tokenize([]).shape == (0, 77)


def test_what_cannot_be_tokenised() -> None:
    with pytest.raises(InputError, match="texts is the str 'a coat'; expected a list"):
        tokenize("a coat")
    with pytest.raises(InputError, match="context_length is 1"):
        tokenize(["a coat"], context_length=1)


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


def oracle(*, towers: str = "vit", quick_gelu: bool = True) -> CLIP:
    """open_clip's CLIP, small, with every weight random, biases and norms among them."""
    vision = (
        CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32)
        if towers == "vit"
        else CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, image_size=32)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(24, vision, CLIPTextCfg(width=WIDTH, heads=2, layers=2), quick_gelu=quick_gelu).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def features_of(model: CLIP, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = model.encode_text(tokens)
    return features


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def write_clip(form: str, folder: Path) -> tuple[Path, CLIP]:
    """Write CLIP in one of its published forms; return the file and the oracle of its weights."""
    model = oracle(towers="resnet" if form == "OpenAI RN50" else "vit")
    path = folder / "clip.pt"
    numbers = {name: torch.tensor(number) for name, number in NUMBERS.items()}
    if form == "OpenAI, TorchScript in half precision":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, and still how OpenAI publishes
            inputs = torch.zeros(1, 3, 32, 32), tokenize(["a"])
            torch.jit.trace(copy.deepcopy(model), inputs, check_trace=False).half().save(str(path))
        model.load_state_dict({name: tensor.half() for name, tensor in model.state_dict().items()})
    elif form == "open_clip, CustomTextCLIP":
        named = {
            name if name.startswith(("visual.", "logit_")) else f"text.{name}": tensor
            for name, tensor in model.state_dict().items()
        }
        saved({"state_dict": {f"module.{name}": tensor for name, tensor in named.items()}}, path)
    elif form == "open_clip, safetensors in a folder":
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        return folder, model
    else:
        saved(model.state_dict() | numbers, path)
    return path, model


@pytest.mark.parametrize(
    "form",
    [
        "OpenAI ViT",
        "OpenAI RN50",
        "OpenAI, TorchScript in half precision",
        "open_clip, CustomTextCLIP",
        "open_clip, safetensors in a folder",
    ],
)
def test_captions_and_prompts_from_clip_are_what_clip_itself_computes(form: str, tmp_path: Path) -> None:
    path, model = write_clip(form, tmp_path)
    tokens = tokenize(CAPTIONS)
    encoder = caption_encoder_from_clip(path)
    text = prompted_text_from_clip(path, identities=3)
    assert not encoder.training and not text.training
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens), features_of(model, tokens), rtol=1e-4, atol=1e-5)
        # With the embedding of "X" in the places of the learned tokens, a prompt is the plain sentence.
        text.prompt_learner.cls_ctx[1] = model.token_embedding.weight[PROMPT_TOKENS[5]]
        plain = features_of(model, tokenize(["A photo of a X X X X person."]))
        prompted = text(torch.tensor([1, 2]))
    torch.testing.assert_close(prompted[:1], plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(prompted[1:], plain, atol=1e-2)
    # Behind the end comes padding, which no feature sees, and which is CLIP's token 0 as in CLIP-ReID's own files.
    assert torch.equal(text.prompt_learner.token_suffix[0, -1], model.token_embedding.weight[0].detach())


def test_prompts_from_clip_are_saved_and_read_as_clip_reid_does(tmp_path: Path) -> None:
    text = prompted_text_from_clip(saved(oracle().state_dict(), tmp_path / "clip.pt"), identities=3)
    opened = load_prompted_text(saved(text.state_dict(), tmp_path / "reid.pth"))
    with torch.no_grad():
        assert torch.equal(opened(torch.arange(3)), text(torch.arange(3)))


def test_clip_trained_with_gelu_is_opened_so_where_asked(tmp_path: Path) -> None:
    model, tokens = oracle(quick_gelu=False), tokenize(CAPTIONS)
    path = saved(model.state_dict(), tmp_path / "laion.pt")
    expected = features_of(model, tokens)
    with torch.no_grad():
        torch.testing.assert_close(caption_encoder_from_clip(path, activation="gelu")(tokens), expected)
        assert not torch.allclose(caption_encoder_from_clip(path)(tokens), expected, atol=1e-3)
        text = prompted_text_from_clip(path, identities=2, activation="gelu")
        reid = saved(text.state_dict(), tmp_path / "reid.pth")
        assert torch.equal(load_prompted_text(reid, activation="gelu")(torch.arange(2)), text(torch.arange(2)))


def test_clip_files_without_a_text_side_that_fits(tmp_path: Path) -> None:
    state, path = oracle().state_dict(), tmp_path / "x.pt"
    for change, message in (
        ({"token_embedding.weight": None}, r"has no 'token_embedding\.weight', so no text side of CLIP"),
        ({"positional_embedding": None}, r"has no 'positional_embedding', so no text side"),
        ({"text_projection": None}, r"has no 'text_projection', so no text side"),
        ({"token_embedding.weight": torch.ones(100, WIDTH)}, r"embeds 100 tokens; expected the 49408"),
        ({"token_embedding.weight": torch.ones(49408, 64)}, r"size mismatch for token_embedding\.weight"),
        (
            {"token_embedding.weight": torch.ones(49408)},
            r"token_embedding\.weight has shape \(49408,\); expected 2 axes",
        ),
        ({"positional_embedding": torch.ones(11, WIDTH)}, r"context of 11 tokens; the prompt needs 12"),
        ({"positional_embedding": torch.ones(77, 100)}, r"is 100 wide; expected a multiple of 64"),
        ({"ln_final.bias": None}, r"Missing key\(s\).*ln_final\.bias"),
        ({"transformer.resblocks.1.ln_1.bias": None}, r"Missing key\(s\).*resblocks\.1\.ln_1\.bias"),
        ({"transformer.resblocks.0.ls_1.gamma": torch.ones(1)}, r"Unexpected key\(s\).*ls_1\.gamma"),
        ({"text_decoder.weight": torch.ones(1)}, r"Unexpected key\(s\).*text_decoder\.weight"),
    ):
        saved({name: t for name, t in (state | change).items() if t is not None}, path)
        for open_text in (caption_encoder_from_clip, lambda path: prompted_text_from_clip(path, identities=1)):
            with pytest.raises(CheckpointError, match=message):
                open_text(path)
    saved(clip_reid_state(tiny_model(TINY_CONFIGS["clip_vit"])) | dict(small_text().state_dict()), path)
    with pytest.raises(CheckpointError, match=r"has no 'token_embedding\.weight'"):
        prompted_text_from_clip(path, identities=1)


@torch.no_grad()
def test_each_row_is_read_at_its_own_end() -> None:
    torch.manual_seed(0)
    tower = TextTower(width=64, depth=2, context_length=CONTEXT, projection_dim=10).eval()
    prompts, ends = torch.randn(4, CONTEXT, 64), [3, 19, 0, 7]
    features = tower(prompts, torch.tensor(ends))
    # The slow twin runs every token, one prompt at a time.
    for row, end in enumerate(ends):
        tokens = tower.transformer(prompts[row : row + 1] + tower.positional_embedding, attn_mask=tower.causal_mask)
        expected = tower.ln_final(tokens[:, end]) @ tower.text_projection
        torch.testing.assert_close(features[row : row + 1], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tower(prompts[row : row + 1], end), expected, rtol=1e-4, atol=1e-5)
    assert tower(prompts[:0], torch.tensor([], dtype=torch.int64)).shape == (0, 10)


def small_encoder(seed: int = 0, context_length: int = CONTEXT) -> CaptionEncoder:
    return random_caption_encoder(width=64, depth=1, context_length=context_length, projection_dim=10, seed=seed)


def small_random_text(seed: int = 0, identities: int = 40) -> PromptedText:
    return random_prompted_text(
        identities=identities, width=64, depth=1, context_length=CONTEXT, projection_dim=10, seed=seed
    )


def test_random_text_sides_are_told_by_their_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (small_random_text(seed).state_dict() for seed in (3, 3, 4))
    encoder = small_encoder(3)
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers go on as they would have
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("prompt_learner.cls_ctx", "prompt_learner.token_prefix", "text_encoder.text_projection"):
        assert not torch.equal(first[name], other[name])
    assert all(torch.equal(first[f"text_encoder.{name}"], t) for name, t in encoder.text_encoder.state_dict().items())
    # 40 * 4 * 64 numbers of standard deviation 0.02, known to 0.7%; of the embedding far more.
    assert first["prompt_learner.cls_ctx"].std().item() == pytest.approx(0.02, rel=0.03)
    assert encoder.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert torch.equal(
        first["prompt_learner.token_prefix"][0], encoder.token_embedding.weight[list(PROMPT_TOKENS[:5])].detach()
    )


def test_prompts_and_captions_share_one_tower() -> None:
    encoder = small_encoder()
    text = prompted_by(encoder, identities=6)
    assert text.text_encoder is encoder.text_encoder
    text(torch.tensor([4, 1])).sum().backward()
    gradient = text.prompt_learner.cls_ctx.grad
    assert gradient is not None
    assert gradient.flatten(1).any(dim=1).tolist() == [False, True, False, False, True, False]
    assert encoder.token_embedding.weight.grad is None  # the fixed tokens are copies
    encoder(tokenize(["a red coat"], CONTEXT)).sum().backward()
    learned = encoder.token_embedding.weight.grad
    assert learned is not None
    # Start, three words and end; padding behind the end has no part.
    assert set(learned.any(dim=1).nonzero().flatten().tolist()) == set(tokenize(["a red coat"], 5)[0].tolist())


def test_text_sides_that_cannot_be() -> None:
    with pytest.raises(InputError, match="identities is 0"):
        prompted_by(small_encoder(), identities=0)
    with pytest.raises(InputError, match="context length is 11; the prompt needs 12"):
        prompted_by(small_encoder(context_length=11), identities=2)
    with pytest.raises(InputError, match=r"tokens have shape \(1, 77\); expected \(B, 20\)"):
        small_encoder()(tokenize(["a"]))
    with pytest.raises(InputError, match=r"tokens have shape \(20,\)"):
        small_encoder()(tokenize(["a"], CONTEXT)[0])
