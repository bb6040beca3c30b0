"""A trained model as the start of another: other people, another size, stride, neck or layout, part tokens.

In: a `ReidModel` and the config that is wanted. Out: a model of that config, with every tensor of the backbone and
necks that fits, positions resampled to the new grid; what is new is random. Knows nothing of files or training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelscope_reid.config import ModelConfig, PassVitConfig, TransReidConfig
from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.checkpoints import resample_positions
from modelscope_reid.models.reid_model import ReidModel

MAY_DIFFER: tuple[str, ...] = ("head.", "backbone.camera_embedding.")
PART_TOKENS = "backbone.reg_token"
PART_DEVIATION = 0.02
"""How far new part tokens lie from the class token: equal ones would get equal gradients, and stay equal."""


def adapt(source: ReidModel, config: ModelConfig, *, seed: int = 0) -> tuple[ReidModel, tuple[str, ...]]:
    """Return a model of `config` that starts from `source`, and the names of the tensors that are random.

    Classifiers are always new, since their rows are other people. So are necks where they stand elsewhere, and camera
    embeddings of another number of cameras. A plain ViT becomes a PASS ViT: its part tokens are new, drawn around the
    class token, at the class token's position.

    Raises:
        CheckpointError: a tensor of the backbone that has no counterpart in `source`, or the other way round.
    """
    model = ReidModel.with_seed(config, seed)
    kept = ("backbone.", "head.necks.") if _necks(source.config) == _necks(config) else ("backbone.",)
    given = {name: tensor for name, tensor in source.state_dict().items() if name.startswith(kept)}
    state, may_differ = model.state_dict(), MAY_DIFFER
    if isinstance(source.config, TransReidConfig) and isinstance(config, PassVitConfig):
        given["backbone.pos_embed"] = _with_part_positions(given["backbone.pos_embed"], config.part_tokens)
        state[PART_TOKENS] = _part_tokens(given["backbone.cls_token"], config.part_tokens, seed)
        may_differ = (*MAY_DIFFER, PART_TOKENS)
    resample_positions(given, config, getattr(source.config, "grid", None))
    fresh = [name for name in state if name not in given or given[name].shape != state[name].shape]
    unused = [name for name in given if name not in state]
    for name in (*fresh, *unused):
        if not name.startswith(may_differ):
            there, wanted = (tuple(held[name].shape) if name in held else "missing" for held in (given, state))
            raise CheckpointError(
                f"the weights do not fit the recipe's model: {name} is {there}, expected {wanted}; "
                "drop the recipe's field that differs, or start from other weights."
            )
    model.load_state_dict({**state, **{name: given[name] for name in state if name not in fresh}})
    return model, tuple(fresh)


def _part_tokens(class_token: Tensor, count: int, seed: int) -> Tensor:
    """Return (1, count, D) from (1, 1, D)."""
    noise = torch.randn(1, count, class_token.shape[-1], generator=torch.Generator().manual_seed(seed))
    return class_token + PART_DEVIATION * noise.to(class_token)


def _with_part_positions(positions: Tensor, count: int) -> Tensor:
    """Return (1, 1 + count + patches, D) from (1, 1 + patches, D): the class token's for each part too."""
    return torch.cat((positions[:, :1].expand(-1, 1 + count, -1), positions[:, 1:]), dim=1)


def _necks(config: ModelConfig) -> tuple[object, ...]:
    """Return where the necks stand: four of PASS's and one over its mean have a first one of the same shape."""
    return tuple(getattr(config, name, None) for name in ("neck", "fusion"))
