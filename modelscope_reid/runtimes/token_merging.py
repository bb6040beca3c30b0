"""Fewer tokens through a vision transformer: in each block, patches that look alike become one. Faster, and not exact.

In: a `ReidModel` of a vision transformer. Out: a twin of it, for inference, whose embeddings are others: how far off
they are is for a parity report to say. Knows nothing of engines. B images, N tokens, D width, K numbers of a key.

Source: token merging (ToMe; Bolya et al., ICLR 2023): the patches in two sets by turns, each of the first with the one
most like it in the second, by the attention's keys; the best pairs join, and a token counts in attention as often as it
has patches. The class token and the parts are never merged, and the last block merges nothing: its patches are not
read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.vit import ReidVit
from modelscope_reid.runtimes.onednn import twin_of
from modelscope_reid.runtimes.trimming import ReadTokensBlock, is_plain


def merged(model: ReidModel, per_block: int) -> ReidModel:
    """Return a twin of `model` that merges `per_block` tokens in every block but the last; parameters are shared.

    Raises:
        InputError: less than 1, more tokens than there are pairs, or not a vision transformer of timm's plain blocks.
    """
    vit = model.backbone
    if not isinstance(vit, ReidVit) or not all(map(is_plain, vit.blocks)):
        raise InputError(f"merge_tokens is for vision transformers, and this model is {model.config.family}.")
    merging_blocks = len(vit.blocks) - 1
    patches = vit.patch_embed.num_patches
    most = max((count for count in range(patches) if _is_possible(patches, count, merging_blocks)), default=0)
    if not 1 <= per_block <= most:
        raise InputError(
            f"merge_tokens is {per_block}; expected 1 to {most}: the model has {patches} patches, and merges in "
            f"{merging_blocks} of its blocks."
        )
    twin = twin_of(model).eval()
    assert isinstance(twin.backbone, ReidVit)
    twin.backbone.through = MergingThrough(per_block=per_block, prefix=vit.num_prefix_tokens)
    return twin


def _is_possible(patches: int, count: int, blocks: int) -> bool:
    """Tell whether `count` patches can be merged in each of so many blocks: half of what is left, at most."""
    return all(count <= (patches - count * block) // 2 for block in range(blocks))


@dataclass(frozen=True, kw_only=True)
class MergingThrough:
    """Takes tokens through blocks, merging `per_block` of them in each but the last; the first `prefix` stay."""

    per_block: int
    prefix: int

    def __call__(self, blocks: nn.Sequential, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> before the last block and after it, as `models.vit.Through`."""
        sizes = torch.ones_like(tokens[..., :1])
        for block in blocks[:-1]:
            seen, keys = _attention(block, tokens, sizes)
            tokens, sizes = merge(tokens + seen, keys, sizes, prefix=self.prefix, count=self.per_block)
            tokens = _mlp(block, tokens)
        last = blocks[-1]
        if isinstance(last, ReadTokensBlock):
            return tokens, last(tokens, _bias(sizes))
        return tokens, _mlp(last, tokens + _attention(last, tokens, sizes)[0])


def _bias(sizes: Tensor) -> Tensor:
    """Return what makes a token count as often as it has patches: (B, N, 1) -> (B, 1, 1, N), to add to attention."""
    return sizes.log().transpose(1, 2)[:, None]


def _attention(block: Any, tokens: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return what attention adds to the tokens (B, N, D), and its keys, the mean of all heads' (B, N, K)."""
    attention = block.attn
    qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1))
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=_bias(sizes))
    return block.ls1(attention.proj(seen.transpose(1, 2).flatten(2))), keys.mean(dim=1)


def _mlp(block: Any, tokens: Tensor) -> Tensor:
    out: Tensor = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return out


def merge(tokens: Tensor, keys: Tensor, sizes: Tensor, *, prefix: int, count: int) -> tuple[Tensor, Tensor]:
    """Merge `count` patches into others: tokens (B, N, D), keys (B, N, K), sizes (B, N, 1) -> (B, N - count, D), sizes.

    A merged token is the mean of its patches; the order of the tokens changes.
    """
    directions = functional.normalize(keys, dim=-1)
    likeness, partner = (directions[:, prefix::2] @ directions[:, prefix + 1 :: 2].transpose(1, 2)).max(dim=-1)
    order = likeness.argsort(dim=-1, descending=True)
    gone, kept = order[:, :count], order[:, count:]
    sums = torch.cat((tokens * sizes, sizes), dim=-1)
    givers, takers = sums[:, prefix::2], sums[:, prefix + 1 :: 2]

    def rows(places: Tensor) -> Tensor:
        return places[..., None].expand(-1, -1, sums.shape[-1])

    joined = takers.scatter_add(1, rows(partner.gather(1, gone)), givers.gather(1, rows(gone)))
    sums = torch.cat((sums[:, :prefix], givers.gather(1, rows(kept)), joined), dim=1)
    sizes = sums[..., -1:]
    return sums[..., :-1] / sizes, sizes
