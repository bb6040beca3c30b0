"""The network that a run starts from: published weights made to fit, or random numbers.

In: a `ModelSpec`, and how many people and cameras there are. Out: a `ReidModel`. Knows nothing of data or loops.
"""

from __future__ import annotations

import logging

from modelscope_reid.config import BACKBONES, ClipResNetConfig, ModelConfig, OsnetConfig
from modelscope_reid.errors import ConfigError
from modelscope_reid.hub import resolve_model
from modelscope_reid.models.adaptation import adapt
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.recipe import ModelSpec

logger = logging.getLogger(__name__)


def initial_model(spec: ModelSpec, *, classes: int, cameras: int, seed: int) -> ReidModel:
    """Return the model of `spec` with a new classifier; the same seed gives the same numbers.

    Raises:
        ConfigError: a field that the family does not have, or weights of another family than the backbone.
        CheckpointError, HubError: weights that cannot be opened, or do not fit.
    """
    if spec.weights is None:
        assert spec.backbone is not None  # ModelSpec has checked
        if spec.published_weights:
            logger.warning(
                "model.weights is null: training starts from random numbers; the published figures are of a start "
                "from %s. Give its path or hub id as --model.",
                spec.published_weights,
            )
        config = spec.configure(BACKBONES[spec.backbone], classes=classes, cameras=cameras)
        return ReidModel.with_seed(config, seed)
    source, report = load_checkpoint(resolve_model(spec.weights))
    if spec.backbone is not None and type(source.config) is not type(BACKBONES[spec.backbone]):
        raise ConfigError(
            f"model.weights ({report.source}) is a {source.config.family}, and model.backbone {spec.backbone!r} a "
            f"{BACKBONES[spec.backbone].family}; give weights of that family, or another recipe."
        )
    model, fresh = adapt(source, spec.configure(source.config, classes=classes, cameras=cameras), seed=seed)
    logger.info("%s: %d tensors are new: %s", report.source, len(fresh), ", ".join(fresh))
    return model


def is_convolutional(config: ModelConfig) -> bool:
    """Tell whether the backbone takes images of any size, and is faster with channels last."""
    return isinstance(config, (OsnetConfig, ClipResNetConfig))
