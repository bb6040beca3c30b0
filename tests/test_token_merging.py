"""Token merging: against a loop over pairs, exact where patches are alike, and what cannot be merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model
from torch import Tensor

from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.vit import ReidVit
from modelscope_reid.runtimes.graphs import GraphModule
from modelscope_reid.runtimes.token_merging import merge, merged

TRANSFORMERS = ("pass_vit", "transreid_vit", "clip_vit")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merged_by_hand(tokens: Tensor, keys: Tensor, sizes: Tensor, *, prefix: int, count: int) -> dict[int, np.ndarray]:
    """Return of one image each token that is left, by its place before, with its size as the last number."""
    givers = range(prefix, len(tokens), 2)
    takers = range(prefix + 1, len(tokens), 2)
    likeness = {
        giver: {taker: float(torch.cosine_similarity(keys[giver], keys[taker], dim=0)) for taker in takers}
        for giver in givers
    }
    best = {giver: max(found, key=found.__getitem__) for giver, found in likeness.items()}
    gone = sorted(givers, key=lambda giver: -likeness[giver][best[giver]])[:count]
    members = {place: [place] for place in range(len(tokens)) if place not in gone}
    for giver in gone:
        members[best[giver]].append(giver)
    left = {}
    for place, places in members.items():
        weights = sizes[places, 0].numpy()
        mean = (tokens[places].numpy() * weights[:, None]).sum(axis=0) / weights.sum()
        left[place] = np.append(mean, weights.sum())
    return left


@pytest.mark.parametrize("patches", [8, 9])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_best_pairs_become_their_mean(patches: int, count: int) -> None:
    prefix = 2
    tokens, keys = drawn(3, prefix + patches, 5), drawn(3, prefix + patches, 4, seed=1)
    sizes = 1.0 + torch.arange(prefix + patches)[None, :, None].expand(3, -1, 1) % 3
    actual, counted = merge(tokens, keys, sizes, prefix=prefix, count=count)
    assert actual.shape == (3, prefix + patches - count, 5) and counted.shape == (3, prefix + patches - count, 1)
    assert torch.equal(actual[:, :prefix], tokens[:, :prefix])
    for image in range(3):
        expected = merged_by_hand(tokens[image], keys[image], sizes[image], prefix=prefix, count=count)
        found = torch.cat((actual[image], counted[image]), dim=1).numpy()
        order = np.lexsort(found.T)
        rows = np.stack(list(expected.values()))
        np.testing.assert_allclose(found[order], rows[np.lexsort(rows.T)], rtol=1e-5, atol=1e-6)
    assert torch.allclose(counted.sum(dim=1), sizes.sum(dim=1))


def all_alike(family: str) -> tuple[ReidModel, Tensor]:
    """A model whose patches have one position, and images of one colour: all patches are alike."""
    model = tiny_model(TINY_CONFIGS[family])
    vit = model.backbone
    assert isinstance(vit, ReidVit) and vit.pos_embed is not None
    prefix = vit.num_prefix_tokens
    vit.pos_embed.data[:, prefix:] = vit.pos_embed.data[:, prefix : prefix + 1]
    return model, drawn(3, 3, 1, 1).expand(-1, -1, *model.config.image_size)


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.parametrize("count", [1, 2])
def test_patches_that_are_alike_merge_without_a_trace(family: str, count: int) -> None:
    model, images = all_alike(family)
    expected = embed(model, images)
    actual = embed(merged(model, count), images)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_other_patches_leave_a_trace_and_the_graphs_module_gives_the_same(family: str) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    images, cameras = tiny_images(model.config, 5), torch.tensor([0, 1, 2, -1, 0])
    plain, twin = embed(model, images, cameras), merged(model, 2)
    actual = embed(twin, images, cameras)
    assert (actual - plain).abs().max() > 1e-3 * plain.abs().max()
    with torch.inference_mode():
        trimmed = GraphModule(twin).eval()(images, cameras)
    assert (trimmed - actual).abs().max() <= 1e-5 * actual.abs().max()
    assert torch.equal(embed(model, images, cameras), plain)
    storages = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in twin.parameters()} == storages


def test_every_block_but_the_last_merges() -> None:
    model = merged(tiny_model(TINY_CONFIGS["transreid_vit"]), 2)
    seen: list[int] = []
    for block in model.backbone.blocks:
        block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    embed(model)
    assert seen == [1 + 8 - 2, 1 + 8 - 4, 1 + 8 - 4]


@pytest.mark.parametrize(
    ("family", "count", "message"),
    [
        ("osnet", 2, "merge_tokens is for vision transformers, and this model is osnet"),
        ("pass_vit", 0, "merge_tokens is 0; expected 1 to 4: the model has 8 patches, and merges in 1 of its blocks"),
        ("pass_vit", -1, "merge_tokens is -1; expected 1 to 4"),
        ("pass_vit", 5, "merge_tokens is 5; expected 1 to 4"),
        ("clip_vit", 3, "merge_tokens is 3; expected 1 to 2: the model has 8 patches, and merges in 2 of its blocks"),
    ],
)
def test_what_cannot_be_merged_is_refused(family: str, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merged(tiny_model(TINY_CONFIGS[family]), count)
