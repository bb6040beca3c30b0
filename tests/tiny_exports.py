"""Tiny models in folders, crops to calibrate them with, and their exports, each made once a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid import save_pretrained
from modelscope_reid.datasets.synthetic import draw_sample_crops
from modelscope_reid.model_export import export_model
from modelscope_reid.runtimes import Precision
from modelscope_reid.runtimes.parity_report import ExportFormat

_FOLDER = tempfile.TemporaryDirectory(prefix="tiny_exports")


@functools.cache
def model_folder(family: str) -> Path:
    """A model folder of a tiny model."""
    return save_pretrained(tiny_model(TINY_CONFIGS[family]), Path(_FOLDER.name) / family)


@functools.cache
def crops_folder() -> Path:
    """Forty-two drawn crops."""
    folder = Path(_FOLDER.name) / "crops"
    draw_sample_crops(folder, people=14, cameras=3)
    return folder


@functools.cache
def exported(family: str, format: ExportFormat, precision: Precision = "fp32") -> Path:
    """An exported folder of a tiny model; nobody writes into it."""
    folder = Path(_FOLDER.name) / f"{family}_{format}_{precision}"
    crops = crops_folder() if precision == "int8" else None
    export_model(model_folder(family), folder, format=format, precision=precision, calibration=crops)
    return folder
