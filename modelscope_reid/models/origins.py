"""Where a state dict comes from, and what its names are called here: facts about published checkpoints as tables.

In: names and shapes. Out: the origin, the `ModelConfig` that the shapes tell, and for each name its name here, or
the rule by which it is left out. Pure: no files, no tensors, no torch. ``name#k`` is the k-th piece, along the
token axis, of the tensor ``name``.

Sources of the names: ModelScope 1.40.2, PASS-reID, TransReID, CLIP-ReID, OpenAI CLIP, open_clip, torchreid, and
reid-task (facts only).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelscope_reid.config import (
    ClipResNetConfig,
    ClipVitConfig,
    Fusion,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    Preprocessing,
    TransReidConfig,
)
from modelscope_reid.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

PERSON_SIZE = (256, 128)
"""What a checkpoint with square positions (CLIP's own) is opened at: CLIP-ReID's (height, width)."""
SIZES = (
    (256, 128),
    (384, 128),
    (192, 96),
    (224, 112),
    (320, 160),
    (128, 64),
    (288, 144),
    (384, 192),
    (512, 256),
    (64, 32),
)
STRIDES = (16, 12)
PATCH_SIZE = 16


@dataclass(frozen=True)
class Rule:
    """Names matching `pattern` (whole) become `target`; with no target they are left out for `reason`."""

    pattern: str
    target: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Origin:
    """One family of published files: how to know it, what its shapes tell, what its names become."""

    name: str
    mark: str
    config: Callable[[Shapes], ModelConfig]
    rules: Callable[[Shapes], tuple[Rule, ...]]

    def rename(self, names: Shapes) -> Callable[[str], Rule]:
        """Return the pure function from a published name to its filled-in rule.

        Raises (the function does):
            CheckpointError: a name that this origin does not have.
        """
        compiled = [(re.compile(rule.pattern), rule) for rule in self.rules(names)]

        def renamed(name: str) -> Rule:
            for pattern, rule in compiled:
                match = pattern.fullmatch(name)
                if match:
                    return Rule(name, match.expand(rule.target) if rule.target else None, rule.reason)
            raise CheckpointError(
                f"{name!r} is no name of a {self.name} checkpoint; the file mixes models, or is of a newer kind."
            )

        return renamed


def patches_to_size(patches: int) -> tuple[tuple[int, int], int] | None:
    """Return ((height, width), stride) of the person crops that give this many 16x16 patches, or None."""
    for stride in STRIDES:
        for height, width in SIZES:
            if ((height - PATCH_SIZE) // stride + 1) * ((width - PATCH_SIZE) // stride + 1) == patches:
                return (height, width), stride
    return None


def grid_of(patches: int) -> tuple[int, int]:
    """Return (rows, columns) of a position embedding with this many patches: a known person size, or a square.

    Raises:
        CheckpointError: neither.
    """
    known = patches_to_size(patches)
    if known:
        (height, width), stride = known
        return (height - PATCH_SIZE) // stride + 1, (width - PATCH_SIZE) // stride + 1
    side = round(patches**0.5)
    if side * side != patches:
        raise CheckpointError(
            f"the position embedding has {patches} patches, which no known image size gives "
            f"({', '.join(f'{h}x{w}' for h, w in SIZES)}; stride 16 or 12; or a square). "
            "Put the weights into a model folder whose configuration.json states SIZE_TEST and STRIDE_SIZE."
        )
    return side, side


def _size_and_stride(patches: int) -> tuple[tuple[int, int], int]:
    """Return the person size that gives so many patches, else `PERSON_SIZE`, to which positions are resampled."""
    return patches_to_size(patches) or (PERSON_SIZE, PATCH_SIZE)


def _depth(shapes: Shapes, pattern: str) -> int:
    found = [int(match.group(1)) for name in shapes if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _classes(shapes: Shapes) -> int:
    return shapes.get("classifier.weight", (0,))[0]


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(
            f"the checkpoint has no {name!r}, without which its size cannot be told; it is incomplete."
        )
    return shapes[name]


# PASS, as ModelScope and PASS-reID publish it (base.*), and self-supervised (backbone.* or bare)

_VIT_BODY = r"(patch_embed\.proj\.(?:weight|bias)|blocks\..+|norm\.(?:weight|bias))"


def _pass_rules(prefix: str) -> tuple[Rule, ...]:
    return (
        Rule(prefix + r"cls_token", "backbone.cls_token"),
        Rule(prefix + r"part_token([123])", r"backbone.reg_token#\1"),
        Rule(prefix + r"cls_pos", "backbone.pos_embed#0"),
        Rule(prefix + r"part([123])_pos", r"backbone.pos_embed#\1"),
        Rule(prefix + r"pos_embed", "backbone.pos_embed#4"),
        Rule(prefix + _VIT_BODY, r"backbone.\1"),
        Rule(prefix + r"fc\..+", None, "the backbone's ImageNet classifier, which no published code runs"),
    )


def _pass_finetuned_rules(shapes: Shapes) -> tuple[Rule, ...]:
    return (
        *_pass_rules(r"base\."),
        Rule(r"classifier\.weight", "head.classifiers.0.weight"),
        Rule(r"bottleneck\.(.+)", r"head.necks.0.\1"),
        Rule(r"bottleneck_([123])\.(.+)", r"head.necks.\1.\2"),
    )


def _pass_finetuned_config(shapes: Shapes) -> PassVitConfig:
    width = _shape(shapes, "base.cls_token")[-1]
    size, stride = _size_and_stride(_shape(shapes, "base.pos_embed")[1])
    multi = "bottleneck_1.weight" in shapes
    joined = shapes.get("classifier.weight", (0, 0))[1]
    if not joined and not multi:
        joined = shapes.get("bottleneck.weight", (0,))[0]
    fusion: Fusion = "mean" if joined == width else "cat"
    return PassVitConfig(
        preprocessing=Preprocessing(image_size=size),
        num_classes=_classes(shapes),
        width=width,
        depth=_depth(shapes, r"base\.blocks\.(\d+)\."),
        patch_size=_shape(shapes, "base.patch_embed.proj.weight")[-1],
        stride=stride,
        neck="multi" if multi else "single" if "bottleneck.weight" in shapes else "none",
        fusion=fusion,
    )


def _self_supervised_prefix(shapes: Shapes) -> str:
    return "backbone." if "backbone.part_token1" in shapes else ""


def _pass_self_supervised_rules(shapes: Shapes) -> tuple[Rule, ...]:
    return (
        *_pass_rules(re.escape(_self_supervised_prefix(shapes))),
        Rule(
            r"(?:head|heads|predictor|projector)[\w.]*",
            None,
            "the self-supervised head, used in pre-training only",
        ),
    )


def _pass_self_supervised_config(shapes: Shapes) -> PassVitConfig:
    prefix = _self_supervised_prefix(shapes)
    size, stride = _size_and_stride(_shape(shapes, prefix + "pos_embed")[1])
    return PassVitConfig(
        preprocessing=Preprocessing(image_size=size),
        width=_shape(shapes, prefix + "cls_token")[-1],
        depth=_depth(shapes, re.escape(prefix) + r"blocks\.(\d+)\."),
        patch_size=_shape(shapes, prefix + "patch_embed.proj.weight")[-1],
        stride=stride,
        neck="none",
    )


# TransReID: the same ViT without part tokens; with JPM, b1 is the last block and norm of the global branch


def _transreid_rules(shapes: Shapes) -> tuple[Rule, ...]:
    last = _depth(shapes, r"base\.blocks\.(\d+)\.") - 1
    local = "the local branch (JPM): the embedding here is the global feature"
    jigsaw = (
        Rule(rf"base\.blocks\.{last}\..+", None, "not run where the global branch b1 has its own last block"),
        Rule(r"base\.norm\..+", None, "not run where the global branch b1 has its own norm"),
        Rule(r"b1\.0\.(.+)", rf"backbone.blocks.{last}.\1"),
        Rule(r"b1\.1\.(.+)", r"backbone.norm.\1"),
        Rule(r"b2\..+", None, local),
        Rule(r"(?:bottleneck|classifier)_[1234]\..+", None, local),
    )
    return (
        *(jigsaw if "b1.1.weight" in shapes else ()),
        Rule(r"base\.(cls_token|pos_embed)", r"backbone.\1"),
        Rule(r"base\.sie_embed", "backbone.camera_embedding.weight"),
        Rule(r"base\." + _VIT_BODY, r"backbone.\1"),
        Rule(r"base\.fc\..+", None, "the backbone's ImageNet classifier, which no published code runs"),
        Rule(r"classifier\.weight", "head.classifiers.0.weight"),
        Rule(r"bottleneck\.(.+)", r"head.necks.0.\1"),
    )


def _transreid_config(shapes: Shapes) -> TransReidConfig:
    size, stride = _size_and_stride(_shape(shapes, "base.pos_embed")[1] - 1)
    return TransReidConfig(
        preprocessing=Preprocessing(image_size=size),
        num_classes=_classes(shapes),
        width=_shape(shapes, "base.cls_token")[-1],
        depth=_depth(shapes, r"base\.blocks\.(\d+)\."),
        patch_size=_shape(shapes, "base.patch_embed.proj.weight")[-1],
        stride=stride,
        cameras=shapes.get("base.sie_embed", (0,))[0],
        neck="single" if "bottleneck.weight" in shapes else "none",
    )


# CLIP-ReID (image_encoder.*, reid-task's extra keys among them) and CLIP's own files (visual.*)

_CLIP_REID_HEAD = (
    Rule(r"classifier\.weight", "head.classifiers.0.weight"),
    Rule(r"classifier_proj\.weight", "head.classifiers.1.weight"),
    Rule(r"bottleneck\.(.+)", r"head.necks.0.\1"),
    Rule(r"bottleneck_proj\.(.+)", r"head.necks.1.\1"),
    Rule(r"(?:prompt_learner|text_encoder)\w*\..+", None, "the prompts and the text tower, used in training only"),
    Rule(r"(?:token_embedding|logit_scale).*", None, "the prompts and the text tower, used in training only"),
    Rule(r"center_criterion\..+", None, "the centre loss's state, used in training only"),
)
_CLIP_TEXT = (
    Rule(
        r"(?:transformer|token_embedding|ln_final|text)\..+|positional_embedding|text_projection|logit_scale|logit_bias",
        None,
        "CLIP's text tower",
    ),
    Rule(r"input_resolution|context_length|vocab_size|attn_mask", None, "a number of CLIP's, read off the shapes"),
)


def _clip_vit_rules(prefix: str) -> tuple[Rule, ...]:
    block = prefix + r"transformer\.resblocks\.(\d+)\."
    return (
        Rule(prefix + r"class_embedding", "backbone.cls_token"),
        Rule(prefix + r"positional_embedding", "backbone.pos_embed"),
        Rule(prefix + r"proj", "backbone.projection"),
        Rule(prefix + r"conv1\.weight", "backbone.patch_embed.proj.weight"),
        Rule(prefix + r"ln_pre\.(.+)", r"backbone.norm_pre.\1"),
        Rule(prefix + r"ln_post\.(.+)", r"backbone.norm.\1"),
        Rule(block + r"attn\.in_proj_(weight|bias)", r"backbone.blocks.\1.attn.qkv.\2"),
        Rule(block + r"attn\.out_proj\.(.+)", r"backbone.blocks.\1.attn.proj.\2"),
        Rule(block + r"ln_([12])\.(.+)", r"backbone.blocks.\1.norm\2.\3"),
        Rule(block + r"mlp\.c_fc\.(.+)", r"backbone.blocks.\1.mlp.fc1.\2"),
        Rule(block + r"mlp\.c_proj\.(.+)", r"backbone.blocks.\1.mlp.fc2.\2"),
        Rule(r"cv_embed", "backbone.camera_embedding.weight"),
    )


def _clip_resnet_rules(prefix: str) -> tuple[Rule, ...]:
    return (
        Rule(prefix + r"((?:conv|bn|layer)\d\..+|attnpool\..+)", r"backbone.\1"),
        Rule(r"cv_embed", None, "camera embeddings, which CLIP-ReID's RN50 has and never adds"),
    )


def _clip_vit_config(shapes: Shapes, prefix: str) -> ClipVitConfig:
    tokens, width = _shape(shapes, prefix + "positional_embedding")
    size, stride = _size_and_stride(tokens - 1)
    return ClipVitConfig(
        preprocessing=Preprocessing(image_size=size),
        num_classes=_classes(shapes),
        width=width,
        depth=_depth(shapes, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\."),
        patch_size=_shape(shapes, prefix + "conv1.weight")[-1],
        stride=stride,
        cameras=shapes.get("cv_embed", (0,))[0],
        projection_dim=_shape(shapes, prefix + "proj")[1],
        neck="single" if "bottleneck.weight" in shapes else "none",
    )


def _clip_resnet_config(shapes: Shapes, prefix: str) -> ClipResNetConfig:
    known = patches_to_size(_shape(shapes, prefix + "attnpool.positional_embedding")[0] - 1)
    stages = [_depth(shapes, re.escape(prefix) + rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    default = ClipResNetConfig().preprocessing
    return ClipResNetConfig(
        preprocessing=Preprocessing(image_size=known[0] if known else PERSON_SIZE, mean=default.mean, std=default.std),
        num_classes=_classes(shapes),
        width=_shape(shapes, prefix + "conv3.weight")[0],
        layers=(stages[0], stages[1], stages[2], stages[3]),
        projection_dim=_shape(shapes, prefix + "attnpool.c_proj.weight")[0],
        neck="single" if "bottleneck.weight" in shapes else "none",
    )


# torchreid's OSNet


def _osnet_rules(shapes: Shapes) -> tuple[Rule, ...]:
    return (
        Rule(r"((?:conv[12345]|fc)\..+)", r"backbone.\1"),
        Rule(r"classifier\.(weight|bias)", r"head.classifiers.0.\1"),
    )


def _osnet_config(shapes: Shapes) -> OsnetConfig:
    if any(".IN." in name or ".instance_norm" in name for name in shapes):
        raise CheckpointError(
            "this is an OSNet with instance normalisation (IBN or AIN), which is not supported; plain OSNet is."
        )
    stages = [_shape(shapes, f"conv{stage}.0.conv3.conv.weight")[0] for stage in (2, 3, 4)]
    return OsnetConfig(
        num_classes=_classes(shapes),
        channels=(_shape(shapes, "conv1.conv.weight")[0], stages[0], stages[1], stages[2]),
        feature_dim=_shape(shapes, "fc.0.weight")[0],
    )


ORIGINS: tuple[Origin, ...] = (
    Origin("PASS (ModelScope, PASS-reID)", "base.part_token1", _pass_finetuned_config, _pass_finetuned_rules),
    Origin("PASS, self-supervised", "backbone.part_token1", _pass_self_supervised_config, _pass_self_supervised_rules),
    Origin("PASS, self-supervised", "part_token1", _pass_self_supervised_config, _pass_self_supervised_rules),
    Origin("TransReID", "base.cls_token", _transreid_config, _transreid_rules),
    Origin(
        "CLIP-ReID ViT",
        "image_encoder.class_embedding",
        lambda shapes: _clip_vit_config(shapes, "image_encoder."),
        lambda shapes: (*_clip_vit_rules(r"image_encoder\."), *_CLIP_REID_HEAD),
    ),
    Origin(
        "CLIP-ReID RN50",
        "image_encoder.attnpool.c_proj.weight",
        lambda shapes: _clip_resnet_config(shapes, "image_encoder."),
        lambda shapes: (*_clip_resnet_rules(r"image_encoder\."), *_CLIP_REID_HEAD),
    ),
    Origin(
        "CLIP ViT (OpenAI, open_clip)",
        "visual.class_embedding",
        lambda shapes: _clip_vit_config(shapes, "visual."),
        lambda shapes: (*_clip_vit_rules(r"visual\."), *_CLIP_TEXT),
    ),
    Origin(
        "CLIP RN50 (OpenAI, open_clip)",
        "visual.attnpool.c_proj.weight",
        lambda shapes: _clip_resnet_config(shapes, "visual."),
        lambda shapes: (*_clip_resnet_rules(r"visual\."), *_CLIP_TEXT),
    ),
    Origin("OSNet (torchreid)", "conv2.0.conv2a.conv1.weight", _osnet_config, _osnet_rules),
)


def recognise(shapes: Shapes) -> Origin:
    """Return the origin of a state dict, by the one name that only it has.

    Raises:
        CheckpointError: none fits.
    """
    for origin in ORIGINS:
        if origin.mark in shapes:
            return origin
    some = ", ".join(list(shapes)[:4])
    raise CheckpointError(
        f"the checkpoint's {len(shapes)} tensors ({some}, …) are of no known origin; known are: "
        f"{', '.join(dict.fromkeys(origin.name for origin in ORIGINS))}, and folders written by save_pretrained."
    )


def stock_name(name: str, piece: int | None = None) -> str:
    """Return the ModelScope name of a PASS model's own `name`; `piece` counts along the token axis."""
    if name == "backbone.reg_token":
        return f"base.part_token{(piece or 0) + 1}"
    if name == "backbone.pos_embed":
        return ("base.cls_pos", "base.part1_pos", "base.part2_pos", "base.part3_pos", "base.pos_embed")[piece or 0]
    if name.startswith("head.necks."):
        neck, rest = name.removeprefix("head.necks.").split(".", 1)
        return f"bottleneck.{rest}" if neck == "0" else f"bottleneck_{neck}.{rest}"
    return name.replace("head.classifiers.0.", "classifier.").replace("backbone.", "base.", 1)
