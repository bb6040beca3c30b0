"""Our state dicts under the names that the published training code writes: the inverse of origins.py; timm's ViTs.

Written from the key names and shapes of data/state_dict_shapes.json and from CLIP's and TransReID's published
files, not from origins.py, so that a mistake there shows.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from modelscope_reid.models.reid_model import ReidModel

State = dict[str, Tensor]

CLIP_VIT_NAMES = (
    ("cls_token", "class_embedding"),
    ("pos_embed", "positional_embedding"),
    ("projection", "proj"),
    ("patch_embed.proj", "conv1"),
    ("norm_pre.", "ln_pre."),
    ("blocks.", "transformer.resblocks."),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj.", "attn.out_proj."),
    (".norm1.", ".ln_1."),
    (".norm2.", ".ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)


def _split(model: ReidModel) -> tuple[State, State]:
    """Return the (backbone, head) state, without these prefixes."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    backbone = {name[9:]: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    head = {name[5:]: tensor for name, tensor in state.items() if name.startswith("head.")}
    assert len(backbone) + len(head) == len(state)
    return backbone, head


def _vit_body(backbone: State, prefix: str) -> State:
    return {
        prefix + name: tensor
        for name, tensor in backbone.items()
        if name.startswith(("patch_embed.", "blocks.", "norm."))
    }


def pass_state(model: ReidModel, prefix: str = "base.") -> State:
    """PASS-reID's and ModelScope's names; with prefix "backbone.", those of self-supervised PASS."""
    backbone, head = _split(model)
    state = _vit_body(backbone, prefix)
    state[prefix + "cls_token"] = backbone["cls_token"]
    state[prefix + "cls_pos"] = backbone["pos_embed"][:, 0:1]
    for part in (1, 2, 3):
        state[f"{prefix}part_token{part}"] = backbone["reg_token"][:, part - 1 : part]
        state[f"{prefix}part{part}_pos"] = backbone["pos_embed"][:, part : part + 1]
    state[prefix + "pos_embed"] = backbone["pos_embed"][:, 4:]
    if prefix == "base.":
        state["base.fc.weight"], state["base.fc.bias"] = torch.zeros(1000, 64), torch.zeros(1000)
    for name, tensor in head.items():
        name = name.replace("classifiers.0.", "classifier.").replace("necks.0.", "bottleneck.")
        state[name.replace("necks.", "bottleneck_")] = tensor
    return {name: tensor.clone() for name, tensor in state.items()}


def transreid_state(model: ReidModel) -> State:
    """TransReID's names, the camera embedding as (C, 1, D)."""
    backbone, head = _split(model)
    state = _vit_body(backbone, "base.")
    state["base.cls_token"], state["base.pos_embed"] = backbone["cls_token"], backbone["pos_embed"]
    if "camera_embedding.weight" in backbone:
        state["base.sie_embed"] = backbone["camera_embedding.weight"][:, None]
    for name, tensor in head.items():
        state[name.replace("classifiers.0.", "classifier.").replace("necks.0.", "bottleneck.")] = tensor
    return state


def clip_image_state(model: ReidModel, prefix: str) -> State:
    """The image tower as CLIP's own files ("visual.") and CLIP-ReID's ("image_encoder.") name it."""
    backbone, _ = _split(model)
    if "cls_token" not in backbone:
        return {prefix + name: tensor for name, tensor in backbone.items()}
    state: State = {}
    for name, tensor in backbone.items():
        if name == "camera_embedding.weight":
            continue
        if name in ("cls_token", "pos_embed"):
            tensor = tensor.reshape(-1, tensor.shape[-1])
            tensor = tensor[0] if name == "cls_token" else tensor
        for ours, theirs in CLIP_VIT_NAMES:
            name = name.replace(ours, theirs)
        state[prefix + ("ln_post" + name[4:] if name.startswith("norm.") else name)] = tensor
    return state


def clip_reid_state(model: ReidModel) -> State:
    """CLIP-ReID's names, without the text side."""
    backbone, head = _split(model)
    state = clip_image_state(model, "image_encoder.")
    if "camera_embedding.weight" in backbone:
        state["cv_embed"] = backbone["camera_embedding.weight"]
    for name, tensor in head.items():
        name = name.replace("classifiers.0.", "classifier.").replace("classifiers.1.", "classifier_proj.")
        state[name.replace("necks.0.", "bottleneck.").replace("necks.1.", "bottleneck_proj.")] = tensor
    return state


def openai_text(width: int = 8, *, numbers: bool = True) -> State:
    """What stands beside the image tower in CLIP's own files: the text tower, and OpenAI's three numbers."""
    state = {
        "positional_embedding": torch.zeros(77, width),
        "text_projection": torch.zeros(width, 32),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.zeros(10, width),
        "ln_final.weight": torch.zeros(width),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3 * width, width),
    }
    if numbers:
        state |= {
            "input_resolution": torch.tensor(224),
            "context_length": torch.tensor(77),
            "vocab_size": torch.tensor(49408),
        }
    return state


def osnet_state(model: ReidModel) -> State:
    """torchreid's names."""
    backbone, head = _split(model)
    return backbone | {name.replace("classifiers.0.", "classifier."): tensor for name, tensor in head.items()}


def timm_vit(name: str = "vit_small_patch16_224", *, seed: int = 0, **changes: Any) -> VisionTransformer:
    """timm's own model under its own names, 64 wide, two blocks, every weight random, norms and biases among them."""
    small: dict[str, Any] = {"img_size": (64, 32), "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 10}
    model = timm.create_model(name, **(small | changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
        parameter.data = centre + 0.1 * torch.randn(parameter.shape, generator=generator)
    assert isinstance(model, VisionTransformer)
    return model


def timm_shapes(name: str, **changes: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one of timm's models, at its full size and without its room."""
    with torch.device("meta"):
        model = timm.create_model(name, **changes)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


PUBLISHED = {
    "pass_vit": pass_state,
    "transreid_vit": transreid_state,
    "clip_vit": clip_reid_state,
    "clip_resnet": clip_reid_state,
    "osnet": osnet_state,
}
"""By family, the names of the code that trains it."""
