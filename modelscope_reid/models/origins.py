"""Where a state dict comes from, and what its names are called here: facts about published checkpoints as tables.

In: names and shapes. Out: the origin, the `ModelConfig` that the shapes tell, and for each name its name here, or
the rule by which it is left out. Pure: no files, no tensors, no torch. ``name#k`` is the k-th piece, along the
token axis, of the tensor ``name``.

Sources of the names: ModelScope 1.40.2, PASS-reID, TransReID, timm, CLIP-ReID, OpenAI CLIP, open_clip, torchreid, and
reid-task (facts only).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from modelscope_reid.config import (
    IMAGENET_PREPROCESSING,
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
from modelscope_reid.models.patch_grids import PERSON_SIZE, patches_to_size, size_and_stride

Shapes = Mapping[str, tuple[int, ...]]

CLIP_PREPROCESSING = Preprocessing(
    image_size=PERSON_SIZE,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
)
"""How CLIP itself was trained, for files that nobody has fine-tuned since; CLIP-ReID's have values of their own."""


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


def _depth(shapes: Shapes, pattern: str) -> int:
    """Count numbered blocks; never more than there are names, so that one absurd number builds no absurd model."""
    found = [int(match.group(1)) for name in shapes if (match := re.match(pattern, name))]
    return min(max(found, default=-1) + 1, len(shapes))


def _classes(shapes: Shapes) -> int:
    return _shape(shapes, "classifier.weight", axes=2)[0] if "classifier.weight" in shapes else 0


def _shape(shapes: Shapes, name: str, *, axes: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(
            f"the checkpoint has no {name!r}, without which its size cannot be told; it is incomplete."
        )
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise CheckpointError(f"{name!r} has shape {shapes[name]}; expected {axes} axes, none of length 0.")
    return shapes[name]


# PASS, as ModelScope and PASS-reID publish it (base.*), and self-supervised (backbone.* or bare)

PASS_PIECES: Mapping[str, tuple[str, ...]] = {
    "backbone.reg_token": ("part_token1", "part_token2", "part_token3"),
    "backbone.pos_embed": ("cls_pos", "part1_pos", "part2_pos", "part3_pos", "pos_embed"),
}
"""The published names, without their prefix, of the pieces of each tensor that is joined along the token axis."""

_VIT_BODY = r"(patch_embed\.proj\.(?:weight|bias)|blocks\..+|norm\.(?:weight|bias))"


def _pass_rules(prefix: str) -> tuple[Rule, ...]:
    pieces = (
        Rule(prefix + piece, f"{name}#{index}")
        for name, names in PASS_PIECES.items()
        for index, piece in enumerate(names)
    )
    return (
        *pieces,
        Rule(prefix + r"cls_token", "backbone.cls_token"),
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
    width = _shape(shapes, "base.cls_token", axes=3)[-1]
    patch_size = _shape(shapes, "base.patch_embed.proj.weight", axes=4)[-1]
    size, stride = size_and_stride(_shape(shapes, "base.pos_embed", axes=3)[1], patch_size)
    multi = "bottleneck_1.weight" in shapes
    joined = 0
    if "classifier.weight" in shapes:
        joined = _shape(shapes, "classifier.weight", axes=2)[1]
    elif "bottleneck.weight" in shapes and not multi:
        joined = _shape(shapes, "bottleneck.weight", axes=1)[0]
    fusion: Fusion = "mean" if joined == width else "cat"
    return PassVitConfig(
        preprocessing=Preprocessing(image_size=size),
        num_classes=_classes(shapes),
        width=width,
        depth=_depth(shapes, r"base\.blocks\.(\d+)\."),
        patch_size=patch_size,
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
    patch_size = _shape(shapes, prefix + "patch_embed.proj.weight", axes=4)[-1]
    size, stride = size_and_stride(_shape(shapes, prefix + "pos_embed", axes=3)[1], patch_size)
    return PassVitConfig(
        preprocessing=Preprocessing(image_size=size),
        width=_shape(shapes, prefix + "cls_token", axes=3)[-1],
        depth=_depth(shapes, re.escape(prefix) + r"blocks\.(\d+)\."),
        patch_size=patch_size,
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


def _transreid_config(shapes: Shapes, prefix: str = "base.") -> TransReidConfig:
    patch_size = _shape(shapes, prefix + "patch_embed.proj.weight", axes=4)[-1]
    size, stride = size_and_stride(_shape(shapes, prefix + "pos_embed", axes=3)[1] - 1, patch_size)
    return TransReidConfig(
        preprocessing=Preprocessing(image_size=size),
        num_classes=_classes(shapes),
        width=_shape(shapes, prefix + "cls_token", axes=3)[-1],
        depth=_depth(shapes, re.escape(prefix) + r"blocks\.(\d+)\."),
        patch_size=patch_size,
        stride=stride,
        cameras=_shape(shapes, "base.sie_embed", axes=3)[0] if "base.sie_embed" in shapes else 0,
        neck="single" if "bottleneck.weight" in shapes else "none",
    )


# timm's plain ViT: TransReID's backbone under bare names, trained on ImageNet

_TIMM_RULES = (
    Rule(r"(cls_token|pos_embed)", r"backbone.\1"),
    Rule(_VIT_BODY, r"backbone.\1"),
    Rule(r"(?:head|fc_norm|pre_logits\.fc)\.(?:weight|bias)", None, "the classifier of the images it was trained on"),
)
_TIMM_OTHERS: Mapping[str, str] = {
    r"dist_token": "a distillation token (DeiT)",
    r"reg_token|register_tokens": "register tokens (DINOv2)",
    r"blocks\.\d+\.(?:ls[12]\.gamma|gamma_[12])": "layer scale (DINOv2, DeiT III, BEiT)",
    r"blocks\.\d+\.attn\.[qk]_norm\..+": "norms of queries and keys",
    r"norm_pre\..+": "a norm before its blocks (CLIP)",
}
"""By a name that a plain ViT does not have: what the file's ViT has."""


def _timm_config(shapes: Shapes) -> TransReidConfig:
    config = _transreid_config(shapes, "")
    tokens = shapes["pos_embed"][1]
    misfits = [what for name, what in _TIMM_OTHERS.items() if any(re.fullmatch(name, given) for given in shapes)]
    if "fc_norm.weight" in shapes and "norm.weight" not in shapes:
        misfits.append("the mean of its patches for a feature (fc_norm in place of norm)")
    if round(tokens**0.5) ** 2 == tokens and patches_to_size(tokens - 1) is None:
        misfits.append("no position for its class token")
    if config.width > 1024:  # huge, giant, SO400M: other heads than 64 numbers each
        misfits.append(f"width {config.width}, whose attention heads no shape tells")
    if misfits:
        raise CheckpointError(
            f"this is a ViT with {' and '.join(misfits)}, which is not supported; timm's plain ones are, "
            "such as vit_base_patch16_224."
        )
    return config


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


def _clip_vit_config(shapes: Shapes, prefix: str, preprocessing: Preprocessing) -> ClipVitConfig:
    tokens, width = _shape(shapes, prefix + "positional_embedding", axes=2)
    patch_size = _shape(shapes, prefix + "conv1.weight", axes=4)[-1]
    size, stride = size_and_stride(tokens - 1, patch_size)
    return ClipVitConfig(
        preprocessing=replace(preprocessing, image_size=size),
        num_classes=_classes(shapes),
        width=width,
        depth=_depth(shapes, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\."),
        patch_size=patch_size,
        stride=stride,
        cameras=_shape(shapes, "cv_embed", axes=2)[0] if "cv_embed" in shapes else 0,
        projection_dim=_shape(shapes, prefix + "proj", axes=2)[1],
        neck="single" if "bottleneck.weight" in shapes else "none",
    )


def _clip_resnet_config(shapes: Shapes, prefix: str, preprocessing: Preprocessing) -> ClipResNetConfig:
    known = patches_to_size(_shape(shapes, prefix + "attnpool.positional_embedding", axes=2)[0] - 1)
    stages = [_depth(shapes, re.escape(prefix) + rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    return ClipResNetConfig(
        preprocessing=replace(preprocessing, image_size=known[0] if known else PERSON_SIZE),
        num_classes=_classes(shapes),
        width=_shape(shapes, prefix + "conv3.weight", axes=4)[0],
        layers=(stages[0], stages[1], stages[2], stages[3]),
        projection_dim=_shape(shapes, prefix + "attnpool.c_proj.weight", axes=2)[0],
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
    stages = [_shape(shapes, f"conv{stage}.0.conv3.conv.weight", axes=4)[0] for stage in (2, 3, 4)]
    return OsnetConfig(
        num_classes=_classes(shapes),
        channels=(_shape(shapes, "conv1.conv.weight", axes=4)[0], stages[0], stages[1], stages[2]),
        feature_dim=_shape(shapes, "fc.0.weight", axes=2)[0],
    )


ORIGINS: tuple[Origin, ...] = (
    Origin("PASS (ModelScope, PASS-reID)", "base.part_token1", _pass_finetuned_config, _pass_finetuned_rules),
    Origin("PASS, self-supervised", "backbone.part_token1", _pass_self_supervised_config, _pass_self_supervised_rules),
    Origin("PASS, self-supervised", "part_token1", _pass_self_supervised_config, _pass_self_supervised_rules),
    Origin("TransReID", "base.cls_token", _transreid_config, _transreid_rules),
    Origin("ViT (timm)", "cls_token", _timm_config, lambda shapes: _TIMM_RULES),
    Origin(
        "CLIP-ReID ViT",
        "image_encoder.class_embedding",
        lambda shapes: _clip_vit_config(shapes, "image_encoder.", Preprocessing()),
        lambda shapes: (*_clip_vit_rules(r"image_encoder\."), *_CLIP_REID_HEAD),
    ),
    Origin(
        "CLIP-ReID RN50",
        "image_encoder.attnpool.c_proj.weight",
        lambda shapes: _clip_resnet_config(shapes, "image_encoder.", IMAGENET_PREPROCESSING),
        lambda shapes: (*_clip_resnet_rules(r"image_encoder\."), *_CLIP_REID_HEAD),
    ),
    Origin(
        "CLIP ViT (OpenAI, open_clip)",
        "visual.class_embedding",
        lambda shapes: _clip_vit_config(shapes, "visual.", CLIP_PREPROCESSING),
        lambda shapes: (*_clip_vit_rules(r"visual\."), *_CLIP_TEXT),
    ),
    Origin(
        "CLIP RN50 (OpenAI, open_clip)",
        "visual.attnpool.c_proj.weight",
        lambda shapes: _clip_resnet_config(shapes, "visual.", CLIP_PREPROCESSING),
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
    if name in PASS_PIECES:
        return f"base.{PASS_PIECES[name][piece or 0]}"
    if name.startswith("head.necks."):
        neck, rest = name.removeprefix("head.necks.").split(".", 1)
        return f"bottleneck.{rest}" if neck == "0" else f"bottleneck_{neck}.{rest}"
    return name.replace("head.classifiers.0.", "classifier.").replace("backbone.", "base.", 1)
