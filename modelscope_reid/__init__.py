"""Person re-identification: turn crops of people into embeddings and tell which show the same person.

Public names are loaded when they are first used; importing this package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelscope_reid.datasets.market_layout import Market1501
    from modelscope_reid.datasets.readers import read_dataset
    from modelscope_reid.embedder import Embedder
    from modelscope_reid.embeddings import Embeddings, Failure
    from modelscope_reid.errors import (
        BusyError,
        CheckpointError,
        ConfigError,
        GalleryError,
        HubError,
        ImageError,
        InputError,
        ReidError,
        TooLargeError,
        TrainingError,
    )
    from modelscope_reid.evaluation import evaluate
    from modelscope_reid.gallery.entries import Filters, Identity, Match
    from modelscope_reid.gallery.gallery import Gallery
    from modelscope_reid.hub import resolve_model
    from modelscope_reid.images import ImageLimits, load_image
    from modelscope_reid.model_export import export_model
    from modelscope_reid.models.checkpoints import LoadReport, load_checkpoint
    from modelscope_reid.models.model_folder import convert_checkpoint, save_pretrained
    from modelscope_reid.models.reid_model import ReidModel
    from modelscope_reid.ranking.similarity import cosine_similarity
    from modelscope_reid.runtimes.parity_report import ParityReport
    from modelscope_reid.training.training_run import resume, train

__version__ = "0.1.0"

_HOMES = {
    "BusyError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "Embedder": "embedder",
    "Embeddings": "embeddings",
    "Failure": "embeddings",
    "Filters": "gallery.entries",
    "Gallery": "gallery.gallery",
    "GalleryError": "errors",
    "HubError": "errors",
    "Identity": "gallery.entries",
    "ImageError": "errors",
    "ImageLimits": "images",
    "InputError": "errors",
    "LoadReport": "models.checkpoints",
    "Match": "gallery.entries",
    "Market1501": "datasets.market_layout",
    "ParityReport": "runtimes.parity_report",
    "ReidError": "errors",
    "ReidModel": "models.reid_model",
    "TooLargeError": "errors",
    "TrainingError": "errors",
    "cosine_similarity": "ranking.similarity",
    "evaluate": "evaluation",
    "export_model": "model_export",
    "load_checkpoint": "models.checkpoints",
    "load_image": "images",
    "read_dataset": "datasets.readers",
    "resolve_model": "hub",
    "resume": "training.training_run",
    "train": "training.training_run",
    "convert_checkpoint": "models.model_folder",
    "save_pretrained": "models.model_folder",
}

__all__ = [
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "Embedder",
    "Embeddings",
    "Failure",
    "Filters",
    "Gallery",
    "GalleryError",
    "HubError",
    "Identity",
    "ImageError",
    "ImageLimits",
    "InputError",
    "LoadReport",
    "Market1501",
    "Match",
    "ParityReport",
    "ReidError",
    "ReidModel",
    "TooLargeError",
    "TrainingError",
    "convert_checkpoint",
    "cosine_similarity",
    "evaluate",
    "export_model",
    "load_checkpoint",
    "load_image",
    "read_dataset",
    "resolve_model",
    "resume",
    "save_pretrained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
