"""Why two crops look alike to a model: where it looks, and which patches of the two agree.

In: an `Embedder` that runs in PyTorch, and two images. Out: an `Explanation`, and its picture as one PNG file. The
numbers are those of the run that gives the embeddings. Of a vision transformer: attention from the queries and keys of
the last block, mean over heads; patches compared after the last norm. Of a convolutional network: the last feature
map, whose cells are the patches, and each cell's share of what is pooled. That says where the model looked, not what
it would have said without. Knows nothing of galleries, identities or thresholds.

Maps of activation are those of Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification" (ICCV 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelscope_reid.config import UNKNOWN_CAMERA, ModelConfig, PassVitConfig, VitConfig
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.images import ChannelOrder, ImageSource, describe_source, load_image
from modelscope_reid.plots import PALETTE, QUIET, PathLike, pixel_canvas, place, write, write_png
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.ranking.similarity import cosine_similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from modelscope_reid.models.reid_model import ReidModel

CROP_HEIGHT, MAP_HEIGHT, GAP, LEFT, TOP = 640, 296, 190, 40, 150
"""Pixels of `draw_explanation`: the crops, the maps, the room for lines between the crops, the margins."""
FEATURE_MAPS = {"osnet": "conv5", "clip_resnet": "layer4"}
"""By family, the module of a convolutional backbone whose output (B, C, rows, columns), 0 or more, is pooled."""

Looks = Literal["attention", "activation"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One patch of the first crop and one of the second, as (row, column) of the grid, and their cosine similarity."""

    a: tuple[int, int]
    b: tuple[int, int]
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a model saw in two crops. T prefix tokens, P patches of a grid of rows x columns, N = T + P tokens.

    `crops` (2, H, W, 3) uint8 RGB are the images as the model got them. `attention` (2, T, N) is how each prefix token
    divides its attention in the last block, in the model's order: `token_names`, then the patches row by row; rows sum
    to 1. Where `looks` is activation it is how the pooled feature divides over the cells of the last map, and the token
    that stands for it has no share. `patch_similarities` (P, P) are cosines, first crop's patches by second crop's.
    `similarity` is the cosine of the two embeddings. Patch (row, column) covers `patch_size` pixels from (row, column)
    times `stride`.
    """

    names: tuple[str, str]
    crops: NDArray[np.uint8]
    similarity: float
    token_names: tuple[str, ...]
    grid: tuple[int, int]
    patch_size: int
    stride: int
    attention: NDArray[np.float32]
    patch_similarities: NDArray[np.float32]
    looks: Looks = "attention"

    def __post_init__(self) -> None:
        tokens, patches = len(self.token_names), self.grid[0] * self.grid[1]
        shapes = (self.attention.shape, self.patch_similarities.shape)
        expected = ((2, tokens, tokens + patches), (patches, patches))
        if shapes != expected or self.crops.ndim != 4 or len(self.crops) != 2:
            raise InputError(f"attention and patch_similarities have shapes {shapes}; expected {expected}, two crops.")

    @property
    def attention_maps(self) -> NDArray[np.float32]:
        """The part of `attention` that goes to patches, as (2, T, rows, columns)."""
        maps: NDArray[np.float32] = self.attention[:, :, len(self.token_names) :]
        return maps.reshape(2, len(self.token_names), *self.grid)

    def best_pairs(self, count: int = 6) -> tuple[Pair, ...]:
        """Return up to `count` pairs of patches that agree best, the most similar first.

        Of the half of each crop that its prefix tokens attend to most, so that background is left aside: pairs that
        are each other's best match, none beside another one.
        """
        weights = self.attention_maps.sum(axis=1).reshape(2, -1)
        half = (weights.shape[1] + 1) // 2
        rows, columns = (np.sort(np.argsort(-weight, kind="stable")[:half]) for weight in weights)
        among = self.patch_similarities[np.ix_(rows, columns)]
        best = among.argmax(axis=1)
        mutual = np.flatnonzero(among.argmax(axis=0)[best] == np.arange(half))
        mutual = mutual[np.argsort(-among[mutual, best[mutual]], kind="stable")]
        chosen: list[Pair] = []
        for place_a in mutual.tolist():
            a, b = self._cell(rows[place_a]), self._cell(columns[best[place_a]])
            if len(chosen) < count and not any(_beside(a, pair.a) or _beside(b, pair.b) for pair in chosen):
                chosen.append(Pair(a=a, b=b, similarity=float(among[place_a, best[place_a]])))
        return tuple(chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON values; of the patch similarities, the best pairs."""
        pairs = [{"a": list(pair.a), "b": list(pair.b), "similarity": pair.similarity} for pair in self.best_pairs()]
        return {
            "names": list(self.names),
            "similarity": self.similarity,
            "grid": list(self.grid),
            self.looks: {
                name: {"a": self.attention_maps[0, token].tolist(), "b": self.attention_maps[1, token].tolist()}
                for token, name in enumerate(self.token_names)
            },
            "pairs": pairs,
        }

    def _cell(self, patch: int) -> tuple[int, int]:
        return int(patch) // self.grid[1], int(patch) % self.grid[1]


def _beside(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= 1


def explain(
    embedder: Embedder,
    a: ImageSource,
    b: ImageSource,
    *,
    camera_ids: tuple[int, int] = (UNKNOWN_CAMERA, UNKNOWN_CAMERA),
    channel_order: ChannelOrder = "rgb",
) -> Explanation:
    """Show which regions of two crops agree: where the model looks, and patch-to-patch similarity.

    A vision transformer shows the attention of its tokens: PASS of the class token and three part tokens, TransReID and
    CLIP of the class token. OSNet and CLIP's RN50 show the activation of their last feature map.

    Args:
        embedder: An opened model.
        a: The first crop: a path, a URL, or anything else that is one image.
        b: The second crop.
        camera_ids: The two cameras, for a camera-aware model; -1 is an unknown one.
        channel_order: Of arrays: rgb or bgr.

    Raises:
        InputError: the model does not run in PyTorch.
        ImageError: an image that cannot be read.
    """
    model, config = _network(embedder), embedder.config
    images = [load_image(source, channel_order=channel_order, limits=embedder.limits) for source in (a, b)]
    crops = np.stack([resize(image, config.preprocessing) for image in images])
    batch = to_batch(list(crops), config.preprocessing)
    seen = _watch(model, batch, np.array(camera_ids, np.int64))
    return Explanation(
        names=(describe_source(a), describe_source(b)),
        crops=crops,
        similarity=float(cosine_similarity(seen.embeddings[:1], seen.embeddings[1:])[0, 0]),
        token_names=_token_names(config),
        grid=seen.grid,
        patch_size=config.patch_size if isinstance(config, VitConfig) else crops.shape[1] // seen.grid[0],
        stride=config.stride if isinstance(config, VitConfig) else crops.shape[1] // seen.grid[0],
        attention=seen.attention,
        patch_similarities=cosine_similarity(seen.patches[0], seen.patches[1]),
        looks="attention" if isinstance(config, VitConfig) else "activation",
    )


def _token_names(config: ModelConfig) -> tuple[str, ...]:
    if not isinstance(config, VitConfig):
        return ("pooled",)
    parts = PassVitConfig.part_tokens if isinstance(config, PassVitConfig) else 0
    return ("class", *(f"part {number}" for number in range(1, parts + 1)))


def _network(embedder: Embedder) -> ReidModel:
    """Return the embedder's network, or say why nothing can be seen of it."""
    from modelscope_reid.runtimes.torch_runtime import TorchRuntime

    if not isinstance(embedder.runtime, TorchRuntime):
        raise InputError(
            f"this model runs in {type(embedder.runtime).__name__}, which does not show where it looks; open it with "
            "PyTorch: Embedder.from_pretrained(…, runtime='torch')."
        )
    return embedder.runtime.model


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What a run gave: embeddings (B, D), attention (B, T, N), patches (B, P, W), W the width, and their grid."""

    embeddings: NDArray[np.float32]
    attention: NDArray[np.float32]
    patches: NDArray[np.float32]
    grid: tuple[int, int]


def _watch(model: ReidModel, images: NDArray[np.float32], camera_ids: NDArray[np.int64]) -> _Seen:
    """Run images (B, 3, H, W), and look at what passes through.

    The hooks go to a twin that shares the weights, so that other threads may use the model meanwhile.
    """
    import torch

    from modelscope_reid.runtimes.onednn import twin_of

    twin = twin_of(model)
    backbone: Any = twin.backbone
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def keep(module: Any, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return keep

    config = model.config
    if isinstance(config, VitConfig):
        backbone.blocks[-1].attn.qkv.register_forward_hook(watch("qkv"))
        backbone.blocks[-1].register_forward_hook(watch("tokens"))
    else:
        getattr(backbone, FEATURE_MAPS[config.family]).register_forward_hook(watch("map"))
    device = next(twin.parameters()).device
    with torch.inference_mode():
        embeddings = twin(torch.from_numpy(images).to(device), torch.from_numpy(camera_ids).to(device))
        if isinstance(config, VitConfig):
            prefix, grid = backbone.num_prefix_tokens, config.grid
            attention = attention_weights(backbone.blocks[-1].attn, seen["qkv"])[:, :prefix]
            patches = backbone.norm(seen["tokens"])[:, prefix:]
        else:
            grid = (int(seen["map"].shape[2]), int(seen["map"].shape[3]))
            patches = seen["map"].flatten(2).transpose(1, 2)
            attention = activation_shares(patches)
    arrays = [tensor.float().cpu().numpy() for tensor in (embeddings, attention, patches)]
    return _Seen(embeddings=arrays[0], attention=arrays[1], patches=arrays[2], grid=grid)


def activation_shares(cells: Tensor) -> Tensor:
    """Return each cell's share of a map's activation: cells (B, P, W), 0 or more -> (B, 1, 1 + P), the first 0."""
    from torch.nn import functional

    activation = cells.float().sum(dim=2)
    shares: Tensor = activation / activation.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return functional.pad(shares, (1, 0))[:, None]


def attention_weights(attention: Any, qkv: Tensor) -> Tensor:
    """Return how tokens attend to one another (B, N, N), mean over heads, rows of sum 1.

    `attention` is timm's `Attention`, `qkv` (B, N, 3 x heads x head width) what its layer of that name gave.
    """
    batch, tokens, _ = qkv.shape
    queries, keys, _ = qkv.view(batch, tokens, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    weights = (queries * attention.scale @ keys.transpose(-2, -1)).softmax(dim=-1)
    mean: Tensor = weights.mean(dim=1)
    return mean


def draw_explanation(explanation: Explanation, path: PathLike) -> None:
    """Draw both crops with their best pairs of patches, and beside them where each token looks, as one PNG.

    The picture is 840 pixels high. Each map is scaled to its own maximum; the figure under it is the share of the
    token's attention that goes to patches rather than to the class and part tokens.

    Raises:
        InputError: `path` does not end in .png or cannot be written.
    """
    height, width = explanation.crops.shape[1:3]
    crop_width, map_width = round(CROP_HEIGHT * width / height), round(MAP_HEIGHT * width / height)
    maps_left = LEFT + 2 * crop_width + GAP + 70
    right = maps_left + len(explanation.token_names) * (map_width + 16)
    figure, axes = pixel_canvas(max(right + LEFT - 16, 900), TOP + CROP_HEIGHT + 50)
    write(axes, LEFT, 26, f"cosine similarity {explanation.similarity:.3f}", size=11, ha="left", weight="bold")
    write(axes, LEFT, 70, "patches that agree best", size=7.5, ha="left", color=QUIET)
    write(axes, maps_left, 70, explanation.looks, size=7.5, ha="left", color=QUIET)
    for side, letter in enumerate("AB"):
        x, name = LEFT + side * (crop_width + GAP), _short(explanation.names[side], (crop_width + 40) // 12)
        place(axes, _resized(explanation.crops[side], crop_width, CROP_HEIGHT), x, TOP)
        write(axes, x, TOP - 44, letter, size=9, ha="left", weight="bold")
        write(axes, x + 30, TOP - 40, name, size=7, ha="left", color=QUIET)
        y = TOP + side * (CROP_HEIGHT - MAP_HEIGHT)
        write(axes, maps_left - 18, y + MAP_HEIGHT // 2 - 14, letter, size=9, weight="bold")
        _draw_maps(axes, explanation, side, (maps_left, y), map_width)
    for token, name in enumerate(explanation.token_names if explanation.looks == "attention" else ()):
        write(axes, maps_left + token * (map_width + 16) + map_width / 2, TOP - 42, name, size=8)
    _draw_pairs(axes, explanation, crop_width)
    write_png(figure, path)


def _draw_maps(axes: Axes, explanation: Explanation, side: int, corner: tuple[int, int], width: int) -> None:
    """Draw one crop's maps in a row from `corner` (x, y), each with its share of attention on patches below it."""
    for token, heat in enumerate(explanation.attention_maps[side]):
        x, y = corner[0] + token * (width + 16), corner[1]
        place(axes, _heat_map(explanation, side, heat, (width, MAP_HEIGHT)), x, y)
        if explanation.looks == "attention":
            share = f"{100 * heat.sum():.0f} % on patches"
            write(axes, x + width / 2, y + MAP_HEIGHT + 4, share, size=6, color=QUIET)


def _draw_pairs(axes: Axes, explanation: Explanation, crop_width: int) -> None:
    """Outline the patches of each pair and lead a line from one to the other, through its similarity."""
    scale = CROP_HEIGHT / explanation.crops.shape[1]
    side = explanation.patch_size * scale
    right = LEFT + crop_width + GAP

    def corner(cell: tuple[int, int], left: int) -> tuple[float, float]:
        return left + cell[1] * explanation.stride * scale, TOP + cell[0] * explanation.stride * scale

    pairs = [(corner(pair.a, LEFT), corner(pair.b, right), pair.similarity) for pair in explanation.best_pairs()]
    pairs.sort(key=lambda pair: pair[0][1] + pair[1][1])
    middle = LEFT + crop_width + GAP / 2
    heights = _spread([(a[1] + b[1] + side) / 2 for a, b, _ in pairs], TOP + 20, TOP + CROP_HEIGHT - 20, 44)
    for ((ax, ay), (bx, by), similarity), y, color in zip(pairs, heights, PALETTE, strict=False):
        for x, top in ((ax, ay), (bx, by)):
            square = ([x, x + side, x + side, x, x], [top, top, top + side, top + side, top])
            axes.plot(*square, color="white", linewidth=2.6, zorder=3)
            axes.plot(*square, color=color, linewidth=1.4, zorder=4)
        points = ([ax + side, middle - 44, middle + 44, bx], [ay + side / 2, y, y, by + side / 2])
        axes.plot(*points, color="white", linewidth=2.6, zorder=3)
        axes.plot(*points, color=color, linewidth=1.2, zorder=4)
        label = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        write(axes, middle, y, f"{similarity:.2f}", size=7.5, color=color, va="center", zorder=5, bbox=label)


def _spread(wanted: list[float], low: float, high: float, apart: float) -> list[float]:
    """Move rising numbers as little as needed to be `apart` from one another, from `low` to `high`."""
    moved: list[float] = []
    for number in wanted:
        moved.append(max(number, low, moved[-1] + apart if moved else low))
    limit = high
    for place_from_end in range(len(moved) - 1, -1, -1):
        moved[place_from_end] = min(moved[place_from_end], limit)
        limit = moved[place_from_end] - apart
    return moved


def _resized(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _heat_map(
    explanation: Explanation, side: int, heat: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the crop in grey, warm where `heat` (rows, columns) is high, as pixels of `size` (width, height)."""
    from matplotlib import colormaps

    (height, width), stride, patch = explanation.crops.shape[1:3], explanation.stride, explanation.patch_size
    margin = patch // stride + 1  # the outer half patches have no neighbour of their own: they repeat
    first = margin - (patch / stride - 1) / 2  # where the crop begins, in cells of the padded grid
    grid = Image.fromarray(np.pad(heat / max(float(heat.max()), 1e-12), margin, mode="edge"))
    box = (first, first, first + width / stride, first + height / stride)
    strength = np.clip(np.asarray(grid.resize(size, Image.Resampling.BICUBIC, box)), 0, 1)[:, :, None]
    grey = np.asarray(Image.fromarray(explanation.crops[side]).convert("L").resize(size, Image.Resampling.LANCZOS))
    warm = np.asarray(colormaps["inferno"](0.15 + 0.8 * strength[:, :, 0]))[:, :, :3]
    mixed = (1 - 0.85 * strength) * (0.3 + 0.65 * grey[:, :, None] / 255) + 0.85 * strength * warm
    pixels: NDArray[np.uint8] = (255 * mixed).round().astype(np.uint8)
    return pixels


def _short(name: str, length: int) -> str:
    """Return the last part of a path, cut at the front where it is too long."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return last if len(last) <= length else f"…{last[-length + 1 :]}"
