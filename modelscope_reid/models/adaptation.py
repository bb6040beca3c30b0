"""A trained model as the start of another: other people, another size, stride, neck or layout.

In: a `ReidModel` and the config that is wanted. Out: a model of that config, with every tensor of the backbone and
necks that fits, positions resampled to the new grid; what is new is random. Knows nothing of files or training.
"""

from __future__ import annotations

from modelscope_reid.config import ModelConfig
from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.checkpoints import resample_positions
from modelscope_reid.models.reid_model import ReidModel

MAY_DIFFER = ("head.", "backbone.camera_embedding.")


def adapt(source: ReidModel, config: ModelConfig, *, seed: int = 0) -> tuple[ReidModel, tuple[str, ...]]:
    """Return a model of `config` that starts from `source`, and the names of the tensors that are random.

    Classifiers are always new, since their rows are other people. So are necks where they stand elsewhere, and camera
    embeddings of another number of cameras.

    Raises:
        CheckpointError: a tensor of the backbone that has no counterpart in `source`, or the other way round.
    """
    model = ReidModel.with_seed(config, seed)
    kept = ("backbone.", "head.necks.") if _necks(source.config) == _necks(config) else ("backbone.",)
    given = {name: tensor for name, tensor in source.state_dict().items() if name.startswith(kept)}
    resample_positions(given, config, getattr(source.config, "grid", None))
    state = model.state_dict()
    fresh = [name for name in state if name not in given or given[name].shape != state[name].shape]
    unused = [name for name in given if name not in state]
    for name in (*fresh, *unused):
        if not name.startswith(MAY_DIFFER):
            there, wanted = (tuple(held[name].shape) if name in held else "missing" for held in (given, state))
            raise CheckpointError(
                f"the weights do not fit the recipe's model: {name} is {there}, expected {wanted}; "
                "drop the recipe's field that differs, or start from other weights."
            )
    model.load_state_dict({**state, **{name: given[name] for name in state if name not in fresh}})
    return model, tuple(fresh)


def _necks(config: ModelConfig) -> tuple[object, ...]:
    """Return where the necks stand: four of PASS's and one over its mean have a first one of the same shape."""
    return tuple(getattr(config, name, None) for name in ("neck", "fusion"))
