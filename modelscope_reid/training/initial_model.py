"""The network that a run starts from: published weights made to fit, or random numbers.

In: a `ModelSpec`, and how many people and cameras there are. Out: a `ReidModel`. Knows nothing of data or loops.
"""

from __future__ import annotations

import dataclasses
import logging

from modelscope_reid.config import (
    BACKBONES,
    ClipResNetConfig,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    TransReidConfig,
)
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
        ConfigError: a field that the family does not have, or weights of another family than the backbone; a plain
            ViT (`TransReidConfig`) may start a PASS ViT.
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
    given = source.config
    wanted = BACKBONES[spec.backbone] if spec.backbone else given
    if isinstance(given, TransReidConfig) and isinstance(wanted, PassVitConfig):
        given = _as_pass(given, wanted)
    if type(given) is not type(wanted):
        raise ConfigError(
            f"model.weights ({report.source}) is a {given.family}, and model.backbone {spec.backbone!r} a "
            f"{wanted.family}; give weights of that family, or another recipe."
        )
    model, fresh = adapt(source, spec.configure(given, classes=classes, cameras=cameras), seed=seed)
    logger.info("%s: %d tensors are new: %s", report.source, len(fresh), ", ".join(fresh))
    return model


def _as_pass(given: TransReidConfig, wanted: PassVitConfig) -> PassVitConfig:
    """Return `wanted` with what the weights of `given` tell; neck and fusion stay the backbone's own."""
    told = ["preprocessing", "width", "depth", "patch_size", "stride", "drop_path"]
    if given.cameras:
        told += ["cameras", "camera_coefficient"]
    return dataclasses.replace(wanted, **{name: getattr(given, name) for name in told})


def is_convolutional(config: ModelConfig) -> bool:
    """Tell whether the backbone takes images of any size, and is faster with channels last."""
    return isinstance(config, (OsnetConfig, ClipResNetConfig))
