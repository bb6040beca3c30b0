"""Vision transformers with part tokens, overlapping patches and camera embeddings, on timm's ViT.

In: images (B, 3, H, W) float32, normalised, and camera ids. Out: a tuple of token features (B, D) each,
whose meaning the class states; heads.py joins them. Knows nothing of necks, layouts or files.
B images, N tokens, D width.

Sources: PASS (Zhu et al., ECCV 2022; PASS-reID, Apache-2.0), TransReID (He et al., ICCV 2021; MIT),
CLIP-ReID (Li et al., AAAI 2023; MIT), timm (Apache-2.0) for everything between the patches and the last norm.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modelscope_reid.config import UNKNOWN_CAMERA, ClipVitConfig, PassVitConfig, TransReidConfig, VitConfig
from modelscope_reid.errors import InputError

CameraTokens = Literal["class", "all"]


class OverlapPatchEmbed(PatchEmbed):
    """timm's patch embedding with a stride of its own: patches overlap where stride < patch size."""

    def __init__(self, *, stride: int, **kwargs: Any) -> None:
        self.stride = stride
        super().__init__(**kwargs)
        self.proj.stride = (stride, stride)

    def _init_img_size(self, img_size: int | tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int], int]:
        img_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        rows, columns = (
            (side - patch) // self.stride + 1 for side, patch in zip(img_size, self.patch_size, strict=True)
        )
        return img_size, (rows, columns), rows * columns


class CameraEmbedding(nn.Module):
    """Side information (SIE): one learned vector per camera, times a coefficient.

    An unknown camera (no `camera_ids`, or -1 for one image) gets the mean of all cameras' vectors.
    """

    def __init__(self, *, cameras: int, width: int, coefficient: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(cameras, width))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.coefficient = coefficient

    def forward(self, camera_ids: Tensor | None, batch: int) -> Tensor:
        """Return (B, 1, D) to be added to tokens; camera_ids (B,) int64 in -1..cameras-1, or None.

        Raises:
            InputError: a camera id out of range, or not one per image.
        """
        unknown = self.weight.mean(dim=0, keepdim=True)
        if camera_ids is None:
            rows = unknown.expand(batch, -1)
        else:
            cameras = len(self.weight)
            if camera_ids.shape != (batch,):
                raise InputError(f"camera_ids has shape {tuple(camera_ids.shape)}; expected ({batch},).")
            if int(camera_ids.min()) < UNKNOWN_CAMERA or int(camera_ids.max()) >= cameras:
                raise InputError(
                    f"camera_ids holds {camera_ids.tolist()}; this model knows cameras 0 to {cameras - 1}, "
                    f"and {UNKNOWN_CAMERA} for an unknown one."
                )
            rows = torch.cat((self.weight, unknown))[camera_ids]
        return self.coefficient * rows[:, None, :]


class ReidVit(VisionTransformer):
    """timm's ViT with a patch stride and an optional camera embedding; positions cover all tokens."""

    def __init__(self, config: VitConfig, **kwargs: Any) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            num_classes=0,
            drop_path_rate=config.drop_path,
            embed_layer=partial(OverlapPatchEmbed, stride=config.stride),
            **kwargs,
        )
        self.camera_embedding = (
            CameraEmbedding(cameras=config.cameras, width=config.width, coefficient=config.camera_coefficient)
            if config.cameras
            else None
        )

    def embed_patches(self, images: Tensor, camera_ids: Tensor | None, *, cameras_on: CameraTokens) -> Tensor:
        """Return tokens (B, N, D) as they enter the first block, the camera embedding added to `cameras_on`."""
        tokens: Tensor = self._pos_embed(self.patch_embed(images))
        if self.camera_embedding is None:
            return tokens
        camera = self.camera_embedding(camera_ids, len(images))
        if cameras_on == "all":
            return tokens.add(camera)
        return torch.cat((tokens[:, :1] + camera, tokens[:, 1:]), dim=1)


class PassVit(ReidVit):
    """PASS: a class token and three part tokens before the patches, all with positions.

    Features: (class token, part 1, part 2, part 3) after the last norm. Also TransReID's global branch,
    which has no part tokens and adds its camera embedding to every token.
    """

    def __init__(self, config: PassVitConfig | TransReidConfig) -> None:
        super().__init__(config, reg_tokens=config.part_tokens, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        self.feature_dims = (config.width,) * (1 + config.part_tokens)

    def forward(  # type: ignore[override]  # timm's returns one tensor
        self, images: Tensor, camera_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the prefix tokens' features, each (B, D)."""
        tokens = self.embed_patches(images, camera_ids, cameras_on="all")
        for block in self.blocks:
            tokens = block(tokens)
        return tuple(self.norm(tokens[:, : self.num_prefix_tokens]).unbind(dim=1))


class ClipVit(ReidVit):
    """CLIP's image tower as CLIP-ReID runs it: QuickGELU, a norm before the blocks, camera on the class token.

    Features, all of the class token: (before the last block, after the last norm, projected).
    """

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__(
            config,
            pre_norm=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
            act_layer=config.activation,
        )
        self.projection = nn.Parameter(config.width**-0.5 * torch.randn(config.width, config.projection_dim))
        self.feature_dims = (config.width, config.width, config.projection_dim)

    def forward(  # type: ignore[override]  # timm's returns one tensor
        self, images: Tensor, camera_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return (before the last block (B, D), after the last norm (B, D), projected (B, P))."""
        tokens = self.norm_pre(self.embed_patches(images, camera_ids, cameras_on="class"))
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = tokens[:, 0]
        pooled = self.norm(self.blocks[-1](tokens)[:, 0])
        return last, pooled, pooled @ self.projection
