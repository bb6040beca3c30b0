"""A trained model as the start of another: other people, another size, stride, neck or layout.

In: a `ReidModel` and the config that is wanted. Out: a model of that config, with every tensor of the backbone and
necks that fits, positions resampled to the new grid; what is new is random. Knows nothing of files or training.
"""

from __future__ import annotations

from modelscope_reid.config import ModelConfig
from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.checkpoints import resample_positions
from modelscope_reid.models.reid_model import ReidModel

MAY_BE_NEW = ("head.", "backbone.camera_embedding.")


def adapt(source: ReidModel, config: ModelConfig, *, seed: int = 0) -> tuple[ReidModel, tuple[str, ...]]:
    """Return a model of `config` that starts from `source`, and the names of the tensors that are random.

    Classifiers are always new, since their rows are other people; so may necks and camera embeddings be.

    Raises:
        CheckpointError: a tensor of the backbone that has no counterpart in `source`.
    """
    model = ReidModel.with_seed(config, seed)
    given = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.classifiers")}
    resample_positions(given, config, getattr(source.config, "grid", None))
    state = model.state_dict()
    fresh = [name for name in state if name not in given or given[name].shape != state[name].shape]
    for name in fresh:
        if not name.startswith(MAY_BE_NEW):
            there = tuple(given[name].shape) if name in given else "missing"
            raise CheckpointError(
                f"the weights do not fit the recipe's model: {name} is {there}, expected {tuple(state[name].shape)}; "
                "drop the recipe's field that differs, or start from other weights."
            )
    model.load_state_dict({**state, **{name: given[name] for name in state if name not in fresh}})
    return model, tuple(fresh)
