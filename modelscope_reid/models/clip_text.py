"""CLIP-ReID's text side: one learned prompt per identity, through CLIP's text tower.

In: indices of identities, in the sorted order of training. Out: text features (B, P) float32, not normalised: what
the image tower was trained towards. Parameter names are CLIP-ReID's. Knows nothing of images; embedding a crop
does not need it.

Sources: CLIP-ReID (Li et al., AAAI 2023; MIT), open_clip (MIT) for the transformer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.transformer import LayerNorm, QuickGELU, Transformer
from torch import Tensor, nn

from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.origins import Shapes
from modelscope_reid.models.weight_files import find_weights, read_weights

PROMPT_TOKENS = (49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407)
"""CLIP's tokens of "A photo of a X X X X person."; the four X are learned per identity, the last one ends the text."""
LEARNED_TOKENS = 4
PREFIX_TOKENS = 5


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

    def __init__(self, *, width: int, depth: int, context_length: int, projection_dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = Transformer(
            width=width, layers=depth, heads=max(1, width // 64), act_layer=QuickGELU, norm_layer=LayerNorm
        )
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, projection_dim))
        mask = torch.full((context_length, context_length), float("-inf")).triu_(1)
        self.register_buffer("causal_mask", mask, persistent=False)

    def forward(self, prompts: Tensor, end: int) -> Tensor:
        """(B, context length, width), index of the end token -> (B, P)."""
        tokens = self.transformer(prompts + self.positional_embedding, attn_mask=self.get_buffer("causal_mask"))
        features: Tensor = self.ln_final(tokens[:, end]) @ self.text_projection
        return features


class PromptedText(nn.Module):
    """Prompts and text tower of one CLIP-ReID model."""

    def __init__(
        self,
        *,
        identities: int,
        width: int = 512,
        depth: int = 12,
        context_length: int = 77,
        projection_dim: int = 512,
    ) -> None:
        super().__init__()
        self.prompt_learner = PromptLearner(identities=identities, width=width, context_length=context_length)
        self.text_encoder = TextTower(
            width=width, depth=depth, context_length=context_length, projection_dim=projection_dim
        )

    def forward(self, identities: Tensor) -> Tensor:
        """Return the text features (B, P) of identities (B,) int64."""
        features: Tensor = self.text_encoder(self.prompt_learner(identities), end=len(PROMPT_TOKENS) - 1)
        return features


def _axes(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    if len(shapes[name]) != axes:
        raise CheckpointError(f"the text side does not fit: {name} has shape {shapes[name]}; expected {axes} axes.")
    return shapes[name]


def load_prompted_text(path: str | Path) -> PromptedText:
    """Open the text side of a CLIP-ReID checkpoint (ViT or RN50), strictly, in eval mode and float32.

    Raises:
        CheckpointError: the file cannot be opened, or has no text side that fits.
    """
    path = Path(path)
    file = read_weights(find_weights(path) if path.is_dir() else path)
    tensors = {
        name: tensor.float()
        for name, tensor in file.tensors.items()
        if name.startswith(("prompt_learner.", "text_encoder.")) and "token_embedding" not in name
    }
    shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        identities, _, width = _axes(shapes, "prompt_learner.cls_ctx", 3)
        context_length, _ = _axes(shapes, "text_encoder.positional_embedding", 2)
        _, projection_dim = _axes(shapes, "text_encoder.text_projection", 2)
    except KeyError as error:
        raise CheckpointError(
            f"{path} has no {error}, so no prompts and text tower; expected a CLIP-ReID checkpoint after training."
        ) from error
    depth = len({name.split(".")[3] for name in shapes if name.startswith("text_encoder.transformer.resblocks.")})
    model = PromptedText(
        identities=identities,
        width=width,
        depth=depth,
        context_length=context_length,
        projection_dim=projection_dim,
    )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the text side does not fit: {' '.join(str(error).split())}") from error
    return model.eval()
