"""CLIP's text side: captions, and CLIP-ReID's one learned prompt per identity, through CLIP's text tower.

In: indices of identities, in the sorted order of training, or captions as tokens. Out: text features (B, P) float32,
not normalised: what the image tower was trained towards. Prompts and tower are opened from CLIP-ReID's checkpoints, or
made from CLIP's own, or random. Parameter names are CLIP-ReID's. Knows nothing of images, nor where captions come
from; embedding a crop does not need it.

Sources: CLIP-ReID (Li et al., AAAI 2023; MIT), OpenAI CLIP (MIT), open_clip (MIT) for transformer and tokenizer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import LayerNorm, QuickGELU, Transformer
from torch import Tensor, nn

from modelscope_reid.config import Activation
from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.models.origins import Shapes
from modelscope_reid.models.weight_files import find_weights, read_weights

PROMPT_TOKENS = (49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407)
"""CLIP's tokens of "A photo of a X X X X person."; the four X are learned per identity, the last one ends the text."""
LEARNED_TOKENS = 4
PREFIX_TOKENS = 5
VOCABULARY = 49408
"""CLIP's tokens; the last one, the highest number, ends a text."""
CONTEXT_LENGTH = 77

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}

NOT_TEXT = (
    "visual.", "logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask",
)  # fmt: skip
"""What stands beside the text tower in CLIP's own files."""


Module = TypeVar("Module", bound=nn.Module)


class PromptLearner(nn.Module):
    """Embedded prompts: a fixed prefix, `LEARNED_TOKENS` vectors per identity, a fixed suffix."""

    def __init__(self, *, identities: int, width: int, context_length: int) -> None:
        super().__init__()
        self.cls_ctx = nn.Parameter(0.02 * torch.randn(identities, LEARNED_TOKENS, width))
        suffix = context_length - PREFIX_TOKENS - LEARNED_TOKENS
        self.register_buffer("token_prefix", torch.zeros(1, PREFIX_TOKENS, width))
        self.register_buffer("token_suffix", torch.zeros(1, suffix, width))

    def forward(self, identities: Tensor) -> Tensor:
        """(B,) int64 -> (B, context length, width)."""
        batch = len(identities)
        return torch.cat(
            (
                self.get_buffer("token_prefix").expand(batch, -1, -1),
                self.cls_ctx[identities],
                self.get_buffer("token_suffix").expand(batch, -1, -1),
            ),
            dim=1,
        )


class TextTower(nn.Module):
    """CLIP's causal text transformer over already embedded tokens; the feature is taken where the text ends."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        context_length: int,
        projection_dim: int,
        activation: Activation = "quick_gelu",
    ) -> None:
        super().__init__()
        self.width, self.context_length, self.projection_dim = width, context_length, projection_dim
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = Transformer(
            width=width,
            layers=depth,
            heads=max(1, width // 64),
            act_layer=ACTIVATIONS[activation],
            norm_layer=LayerNorm,
        )
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, projection_dim))
        mask = torch.full((context_length, context_length), float("-inf")).triu_(1)
        self.register_buffer("causal_mask", mask, persistent=False)

    def forward(self, prompts: Tensor, end: int | Tensor) -> Tensor:
        """(B, up to context length, width), index of the end token -> (B, P).

        `end` is one number for all, or (B,) int64. No token sees a later one, so nothing behind the last end is run.
        """
        if isinstance(end, int):
            return self._project(self._run(prompts, end + 1)[:, end])
        if not len(end):
            return prompts.new_zeros(0, self.projection_dim)
        tokens = self._run(prompts, int(end.max()) + 1)
        return self._project(tokens[torch.arange(len(end), device=end.device), end])

    def _run(self, prompts: Tensor, length: int) -> Tensor:
        """Run the first `length` tokens."""
        mask = self.get_buffer("causal_mask")[:length, :length]
        tokens: Tensor = self.transformer(prompts[:, :length] + self.positional_embedding[:length], attn_mask=mask)
        return tokens

    def _project(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.ln_final(tokens) @ self.text_projection
        return features


class PromptedText(nn.Module):
    """Prompts and text tower of one CLIP-ReID model."""

    def __init__(
        self,
        *,
        identities: int,
        width: int = 512,
        depth: int = 12,
        context_length: int = CONTEXT_LENGTH,
        projection_dim: int = 512,
    ) -> None:
        super().__init__()
        self.prompt_learner = PromptLearner(identities=identities, width=width, context_length=context_length)
        self.text_encoder = TextTower(
            width=width, depth=depth, context_length=context_length, projection_dim=projection_dim
        )

    @classmethod
    def around(cls, text_encoder: TextTower, *, identities: int) -> PromptedText:
        """Put prompts, their prefix and suffix still zeros, before a text tower, which stays shared."""
        text = cls(
            identities=identities,
            width=text_encoder.width,
            depth=0,  # replaced at once
            context_length=text_encoder.context_length,
            projection_dim=text_encoder.projection_dim,
        )
        text.text_encoder = text_encoder
        return text

    def forward(self, identities: Tensor) -> Tensor:
        """Return the text features (B, P) of identities (B,) int64."""
        features: Tensor = self.text_encoder(self.prompt_learner(identities), end=len(PROMPT_TOKENS) - 1)
        return features


class CaptionEncoder(nn.Module):
    """CLIP's text side as it is: tokens are embedded, then run by a text tower that prompts may share."""

    def __init__(self, text_encoder: TextTower) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, text_encoder.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.text_encoder = text_encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features (B, P) of tokens (B, up to context length) int64, as `tokenize` makes them.

        Raises:
            InputError: tokens of another shape.
        """
        length = self.text_encoder.context_length
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= length:
            raise InputError(f"tokens have shape {tuple(tokens.shape)}; expected (B, {length}), as tokenize returns.")
        features: Tensor = self.text_encoder(self.token_embedding(tokens), end=tokens.argmax(dim=-1))
        return features


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: Sequence[str], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Turn texts into CLIP's tokens (B, context length) int64; a longer text is cut, and still ends in the end token.

    Raises:
        InputError: one str instead of several, or a context too short for a token.
    """
    if isinstance(texts, str):
        raise InputError(f"texts is the str {texts[:40]!r}; expected a list of texts, so put it in one.")
    if context_length < 2:
        raise InputError(f"context_length is {context_length}; expected 2 or more: a start and an end.")
    tokens: Tensor = _tokenizer()(list(texts), context_length=context_length)
    return tokens


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw random weights from `seed`, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds every accelerator too
        yield


def random_caption_encoder(
    *,
    width: int = 512,
    depth: int = 12,
    context_length: int = CONTEXT_LENGTH,
    projection_dim: int = 512,
    seed: int = 0,
) -> CaptionEncoder:
    """Build a caption encoder in eval mode with random weights, the same for the same seed and torch version."""
    with _seeded(seed):
        tower = TextTower(width=width, depth=depth, context_length=context_length, projection_dim=projection_dim)
        return CaptionEncoder(tower).eval()


def prompted_by(encoder: CaptionEncoder, *, identities: int, seed: int = 0) -> PromptedText:
    """Put CLIP-ReID's prompts before the text tower of `encoder`, which the two then share.

    The fixed tokens are embedded as `encoder` embeds them now; the learned ones are random, normal 0.02, by `seed`.

    Raises:
        InputError: no identity, or a context too short for the prompt.
    """
    length = encoder.text_encoder.context_length
    if identities < 1:
        raise InputError(f"identities is {identities}; expected 1 or more, the people of the training split.")
    if length < len(PROMPT_TOKENS):
        raise InputError(f"the context length is {length}; the prompt needs {len(PROMPT_TOKENS)} tokens.")
    with _seeded(seed):
        text = PromptedText.around(encoder.text_encoder, identities=identities)
    weight = encoder.token_embedding.weight
    padded = (*PROMPT_TOKENS, *(0 for _ in range(length - len(PROMPT_TOKENS))))
    embedded = weight.detach()[torch.tensor(padded, device=weight.device)][None]
    learner = text.prompt_learner.to(weight.device)
    learner.get_buffer("token_prefix").copy_(embedded[:, :PREFIX_TOKENS])
    learner.get_buffer("token_suffix").copy_(embedded[:, PREFIX_TOKENS + LEARNED_TOKENS :])
    return text.train(encoder.training)


def random_prompted_text(
    *,
    identities: int,
    width: int = 512,
    depth: int = 12,
    context_length: int = CONTEXT_LENGTH,
    projection_dim: int = 512,
    seed: int = 0,
) -> PromptedText:
    """Build prompts and text tower in eval mode with random weights, to train without any download.

    The tower is that of `random_caption_encoder` with the same sizes and seed. Raises as `prompted_by` does.
    """
    encoder = random_caption_encoder(
        width=width, depth=depth, context_length=context_length, projection_dim=projection_dim, seed=seed
    )
    return prompted_by(encoder, identities=identities, seed=seed + 1)  # another stream than the tower's


def caption_encoder_from_clip(path: str | Path, *, activation: Activation = "quick_gelu") -> CaptionEncoder:
    """Open the text side of OpenAI's or open_clip's CLIP (any image tower), strictly, in eval mode and float32.

    `activation` is "gelu" for open_clip's files that were not trained with QuickGELU, LAION's (no shape tells).

    Raises:
        CheckpointError: the file cannot be opened, or has no text side that fits.
    """
    path = Path(path)
    tensors = _clip_text(_read(path))
    for name in ("token_embedding.weight", *_TOWER_SIZES):
        if name not in tensors:
            raise CheckpointError(
                f"{path} has no {name!r}, so no text side of CLIP; expected OpenAI's or open_clip's CLIP, both towers."
            )
    state = {
        name if name.startswith("token_embedding.") else f"text_encoder.{name}": tensor
        for name, tensor in tensors.items()
    }
    shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    vocabulary, _ = _axes(shapes, "token_embedding.weight", 2)
    if vocabulary != VOCABULARY:
        raise CheckpointError(f"{path} embeds {vocabulary} tokens; expected the {VOCABULARY} of CLIP's own tokenizer.")
    with _seeded(0):
        encoder = CaptionEncoder(_tower_of(shapes, activation))
    return _filled(encoder, state, path)


def prompted_text_from_clip(
    path: str | Path, *, identities: int, activation: Activation = "quick_gelu", seed: int = 0
) -> PromptedText:
    """Begin CLIP-ReID's text side from CLIP itself, as `caption_encoder_from_clip` opens it: what stage 1 trains.

    Raises:
        CheckpointError: the file cannot be opened, or has no text side that fits.
        InputError: no identity.
    """
    return prompted_by(caption_encoder_from_clip(path, activation=activation), identities=identities, seed=seed)


def load_prompted_text(path: str | Path, *, activation: Activation = "quick_gelu") -> PromptedText:
    """Open the text side of a CLIP-ReID checkpoint (ViT or RN50), strictly, in eval mode and float32.

    `activation` is that of the CLIP it was trained from.

    Raises:
        CheckpointError: the file cannot be opened, or has no text side that fits.
    """
    path = Path(path)
    state = {
        name: tensor
        for name, tensor in _read(path).items()
        if name.startswith(("prompt_learner.", "text_encoder.")) and "token_embedding" not in name
    }
    for name in ("prompt_learner.cls_ctx", *(f"text_encoder.{size}" for size in _TOWER_SIZES)):
        if name not in state:
            raise CheckpointError(
                f"{path} has no {name!r}, so no prompts and text tower; expected a CLIP-ReID checkpoint after training."
            )
    shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    identities, _, _ = _axes(shapes, "prompt_learner.cls_ctx", 3)
    with _seeded(0):
        text = PromptedText.around(_tower_of(shapes, activation), identities=identities)
    return _filled(text, state, path)


_TOWER_SIZES = ("positional_embedding", "text_projection")


def _read(path: Path) -> Mapping[str, Tensor]:
    return read_weights(find_weights(path) if path.is_dir() else path).tensors


def _clip_text(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Leave out what is not of the text side; open_clip's CustomTextCLIP has "text." before all that is."""
    prefixed = {name.removeprefix("text."): tensor for name, tensor in tensors.items() if name.startswith("text.")}
    return {name: tensor for name, tensor in (prefixed or tensors).items() if not name.startswith(NOT_TEXT)}


def _axes(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise CheckpointError(
            f"the text side does not fit: {name} has shape {shapes[name]}; expected {axes} axes, none of length 0."
        )
    return shapes[name]


def _tower_of(shapes: Shapes, activation: Activation) -> TextTower:
    """Build the text tower, not yet filled, whose sizes the shapes of ``text_encoder.*`` tell."""
    context_length, width = _axes(shapes, "text_encoder.positional_embedding", 2)
    _, projection_dim = _axes(shapes, "text_encoder.text_projection", 2)
    blocks = {name.split(".")[3] for name in shapes if name.startswith("text_encoder.transformer.resblocks.")}
    if width > 64 and width % 64:
        raise CheckpointError(f"the text side is {width} wide; expected a multiple of 64, the width of CLIP's heads.")
    if context_length < len(PROMPT_TOKENS):
        raise CheckpointError(
            f"the text side has a context of {context_length} tokens; the prompt needs {len(PROMPT_TOKENS)}."
        )
    return TextTower(
        width=width,
        depth=len(blocks),
        context_length=context_length,
        projection_dim=projection_dim,
        activation=activation,
    )


def _filled(module: Module, state: Mapping[str, Tensor], path: Path) -> Module:
    """Fill a module strictly, in eval mode and float32."""
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the text side does not fit: {' '.join(str(error).split())}") from error
    return module.eval()
