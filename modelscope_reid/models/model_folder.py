"""Save a model as a ModelScope model folder, and convert any checkpoint into one.

In: a `ReidModel`, or a checkpoint. Out: a folder with model.safetensors and configuration.json, and for PASS ViT-B/16
also pytorch_model.pt under the published names, which plain ModelScope opens. Knows nothing of images or the hub.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modelscope_reid.config import Activation, ClipVitConfig, Layout
from modelscope_reid.configuration import CONFIGURATION_FILE, configuration_for, fits_stock
from modelscope_reid.errors import InputError
from modelscope_reid.files import whole_file
from modelscope_reid.models.checkpoints import LoadReport, load_checkpoint
from modelscope_reid.models.origins import stock_name
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.weight_files import METADATA_KEY, WEIGHT_FILES

StoredType = Literal["float32", "float16"]
CLASSIFIERS = "head.classifiers."


def save_pretrained(
    model: ReidModel, folder: str | Path, *, dtype: StoredType = "float32", classifier: bool = True
) -> Path:
    """Write `model` as a model folder: model.safetensors and configuration.json; return the folder.

    `dtype` float16 halves the files; what opens them computes in float32. Without `classifier`, which embedding an
    image does not need, the people of the training split are left out.

    Where plain ModelScope can run the model (PASS ViT-B/16 with necks and classifier), pytorch_model.pt with the
    published names is written too, and the folder opens there without this package. Files are written under
    temporary names and renamed when all are complete, configuration.json last.

    Raises:
        InputError: the folder cannot be written, the disk is full, or float16 cannot hold a weight.
    """
    folder = Path(folder)
    config = model.config if classifier else dataclasses.replace(model.config, num_classes=0)
    state = _stored_state(model.state_dict(), dtype, classifier=classifier)
    metadata = {"format": "pt", METADATA_KEY: json.dumps(config.to_dict())}
    text = json.dumps(configuration_for(config), indent=2) + "\n"
    writers: dict[str, Callable[[Path], object]] = {
        WEIGHT_FILES[0]: lambda path: save_file(state, path, metadata=metadata),
    }
    if fits_stock(config):
        writers[WEIGHT_FILES[1]] = lambda path: torch.save(_stock_state(state), path)
    writers[CONFIGURATION_FILE] = lambda path: path.write_text(text, encoding="utf-8")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}; choose another place.") from error
    with ExitStack() as stack:
        # All are renamed on leaving, the first entered last.
        temporaries = {name: stack.enter_context(whole_file(folder / name)) for name in reversed(writers)}
        for name, write in writers.items():
            try:
                write(temporaries[name])
            except (SafetensorError, RuntimeError) as error:  # theirs for a full disk
                raise InputError(f"{folder / name} cannot be written: {error}; make room, or elsewhere.") from error
    return folder


def convert_checkpoint(
    path: str | Path,
    folder: str | Path,
    *,
    layout: Layout = "1536",
    image_size: tuple[int, int] | None = None,
    activation: Activation | None = None,
    dtype: StoredType = "float32",
    classifier: bool = True,
) -> LoadReport:
    """Open the checkpoint at `path` and write it to `folder` as a model folder; return the load report.

    `layout` is a CLIP ViT's alone; the others have one layout each. `dtype` and `classifier` as `save_pretrained`.

    Raises:
        CheckpointError, ConfigError: it cannot be opened.
        InputError: the folder cannot be written.
    """
    model, report = load_checkpoint(path, image_size=image_size, activation=activation)
    if isinstance(model.config, ClipVitConfig):
        model.config = dataclasses.replace(model.config, layout=layout)
        report = dataclasses.replace(report, config=model.config)
    save_pretrained(model, folder, dtype=dtype, classifier=classifier)
    return report


def _stored_state(state: Mapping[str, Tensor], dtype: StoredType, *, classifier: bool) -> dict[str, Tensor]:
    """Return the tensors to store, on the CPU; counts stay whole numbers."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not classifier and name.startswith(CLASSIFIERS):
            continue
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point() and dtype == "float16":
            half = tensor.half()
            if tensor.isfinite().all() and not half.isfinite().all():
                raise InputError(f"{name} has numbers beyond 65504, which float16 cannot hold; save as float32.")
            tensor = half
        stored[name] = tensor
    return stored


def _stock_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a PASS state dict under ModelScope's names."""
    stock: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "backbone.reg_token":
            pieces = list(torch.split(tensor, 1, dim=1))
        elif name == "backbone.pos_embed":
            pieces = list(torch.split(tensor, [1, 1, 1, 1, tensor.shape[1] - 4], dim=1))
        else:
            pieces = [tensor]
        for index, piece in enumerate(pieces):
            stock[stock_name(name, index)] = piece.clone()
    return stock
