"""The same numbers with less work: nothing is computed that the embedding does not read.

In: a `ReidModel`. Out: for a vision transformer, one whose last block computes queries, projection and MLP only for the
tokens that the head reads (the class token and the parts; keys and values still come from all); for a convolutional
model, one whose batch normalisations are folded into its convolutions. Parameters are shared where they stay as they
are. Knows nothing of engines. B images, N tokens, T tokens that are read, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.vit import ClipVit, PassVit
from modelscope_reid.runtimes.folding import folded
from modelscope_reid.runtimes.onednn import twin_of


class ReadTokensBlock(nn.Module):
    """timm's `Block` in eval mode, for the first `tokens` of its tokens; made of the block's own layers."""

    def __init__(self, block: Block, tokens: int) -> None:
        super().__init__()
        attention: Any = block.attn
        self.tokens, self.heads = tokens, attention.num_heads
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.ls1, self.ls2 = block.ls1, block.ls2
        self.q_norm: nn.Module = attention.q_norm
        self.k_norm: nn.Module = attention.k_norm
        self.proj: nn.Module = attention.proj
        self.query = _rows_of(attention.qkv, 0, attention.attn_dim)
        self.key_value = _rows_of(attention.qkv, attention.attn_dim, 3 * attention.attn_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, T, D)."""
        normed = self.norm1(x)
        read = x[:, : self.tokens] + self.ls1(self._attention(normed))
        out: Tensor = read + self.ls2(self.mlp(self.norm2(read)))
        return out

    def _attention(self, normed: Tensor) -> Tensor:
        """Return what the first T tokens see in all N, (B, T, D)."""
        queries = self.query(normed[:, : self.tokens]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        keys, values = self.key_value(normed).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(self.q_norm(queries), self.k_norm(keys), values)
        projected: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return projected


def _rows_of(linear: nn.Linear, first: int, last: int) -> nn.Linear:
    """Return a linear layer of some of the outputs of `linear`, whose parameters are views of its own."""
    part = nn.Linear(linear.in_features, last - first, bias=linear.bias is not None, device="meta")
    part.weight = nn.Parameter(linear.weight.detach()[first:last], requires_grad=False)
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias.detach()[first:last], requires_grad=False)
    return part


def _fits(block: nn.Module) -> bool:
    """Tell whether a block is timm's plain one, of which `ReadTokensBlock` knows all layers."""
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
        and isinstance(getattr(block.attn, "norm", nn.Identity()), nn.Identity)
    )


def trimmed(model: ReidModel) -> ReidModel:
    """Return a twin of `model`, for inference only, that gives the same embeddings within rounding.

    A model that there is nothing to save in is returned as it is.
    """
    backbone = model.backbone
    if not isinstance(backbone, PassVit | ClipVit):
        return folded(model)
    if not _fits(backbone.blocks[-1]):
        return model
    twin = twin_of(model).eval()
    blocks = twin.backbone.blocks
    assert isinstance(blocks, nn.Sequential) and isinstance(blocks[-1], Block)
    tokens = backbone.num_prefix_tokens if isinstance(backbone, PassVit) else 1  # CLIP's head reads the class token
    with torch.no_grad():
        blocks[-1] = ReadTokensBlock(blocks[-1], tokens)
    return twin
