"""Open a file of weights, whatever wrote it, without running anything that it carries.

In: a path. Out: tensors by name, as the file has them, with wrappers taken off and said. Formats, told by
content and never by suffix: safetensors, PyTorch's zip and legacy pickles (``weights_only=True``, no exception),
TorchScript archives (only their tensors; refused where loading would run code). Knows nothing of models.
"""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # where numpy's pickles point
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modelscope_reid.errors import CheckpointError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.pt", "pytorch_model.bin")
"""Names of a model folder's weights, the first that exists is taken."""
OTHER_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")

METADATA_KEY = "modelscope_reid"
"""Under it our safetensors carry the model's config as JSON, so that the file alone is enough."""

WRAPPERS = ("state_dict", "model", "teacher")
"""Keys under which training scripts put the state dict, outermost first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before each name."""

DAMAGED: tuple[type[Exception], ...] = (
    RuntimeError,  # PyTorch's own, NotImplementedError among them
    ValueError,  # UnicodeDecodeError among them
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What PyTorch and zipfile raise on a file with bytes missing or changed."""

HARMLESS_TYPES: list[Any] = [
    argparse.Namespace,  # DINO-style training scripts store their options
    (np.generic, "numpy.generic"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "bool")),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),  # torchreid stores its Rank-1
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
]
"""Types that weights_only may build beside tensors: plain data, no code."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """Tensors by name; `unwrapped` says what was taken off; `metadata` is safetensors' own."""

    path: Path
    tensors: Mapping[str, Tensor]
    unwrapped: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None


def find_weights(folder: Path) -> Path:
    """Return a model folder's weight file.

    Raises:
        CheckpointError: none, or several of which none has a known name.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in OTHER_SUFFIXES and path.is_file())
    if len(others) == 1:
        return others[0]
    found = f"holds {', '.join(path.name for path in others)}" if others else "holds no weights"
    raise CheckpointError(f"{folder} {found}; expected one of {', '.join(WEIGHT_FILES)}, or pass the file itself.")


def read_weights(path: Path) -> WeightFile:
    """Read all tensors of the file at `path` into host memory.

    Raises:
        CheckpointError: no such file, a broken one, one that would run code, or one without tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        raise CheckpointError(f"{path} is empty; expected a file of weights.")
    if head[:2] != b"PK" and head[8:9] == b"{":
        return _read_safetensors(path)
    content: Any = _read_torchscript(path) if _is_torchscript(path, head) else _read_pickle(path)
    tensors, unwrapped = _unwrap(content, path)
    return WeightFile(path=path, tensors=tensors, unwrapped=unwrapped)


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no intact safetensors file: {error}.") from error
    stripped, unwrapped = _strip_prefixes(tensors, path)
    return WeightFile(path=path, tensors=stripped, unwrapped=unwrapped, metadata=metadata)


def _is_torchscript(path: Path, head: bytes) -> bool:
    if head[:2] != b"PK":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except DAMAGED as error:
        raise CheckpointError(f"{path} is a truncated or damaged archive; fetch it again.") from error


def _read_torchscript(path: Path) -> Mapping[str, Tensor]:
    """Return a TorchScript archive's tensors; its only code that runs on opening is ``__setstate__``, refused here."""
    try:
        with zipfile.ZipFile(path) as archive:
            runs_code = any(b"__setstate__" in archive.read(entry) for entry in archive.infolist() if _is_code(entry))
        if runs_code:
            raise CheckpointError(
                f"{path} is a TorchScript archive that runs code of its own when opened, so it is not opened; "
                "save its state_dict() with torch.save where you trust it, and pass that file."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.load is deprecated; nothing else reads these
            state: Mapping[str, Tensor] = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    except CheckpointError:
        raise
    except DAMAGED as error:
        raise CheckpointError(f"{path} is no intact TorchScript archive: {_first_line(error)}.") from error
    return state


def _is_code(entry: zipfile.ZipInfo) -> bool:
    return "code/" in entry.filename and entry.filename.endswith(".py")


def _read_pickle(path: Path) -> Any:
    try:
        # The open file, because torch.load goes by the suffix of a path.
        with torch.serialization.safe_globals(HARMLESS_TYPES), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path} holds more than tensors ({refused[1]}), and opening that could run code, so it is not "
                "opened. Where you trust it, convert it once: open it with torch.load(path, weights_only=False), "
                "torch.save its state dict alone, and pass that file."
            ) from error
        raise CheckpointError(f"{path} is no file of weights that PyTorch can open; fetch it again.") from error
    except DAMAGED as error:
        raise CheckpointError(f"{path} is no intact file of weights ({_first_line(error)}); fetch it again.") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _unwrap(content: Any, path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Descend through wrappers to the state dict, and strip wrapper prefixes."""
    unwrapped: list[str] = []
    while isinstance(content, Mapping):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        unwrapped.append(key)
        content = content[key]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        kind = (
            f"a dict with {', '.join(map(str, list(content)[:5])) or 'nothing'}"
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        raise CheckpointError(f"{path} holds {kind}; expected a state dict: tensors by name.")
    stripped, prefixes = _strip_prefixes(tensors, path)
    return stripped, (*unwrapped, *prefixes)


def _strip_prefixes(tensors: Mapping[str, Tensor], path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Take wrapper prefixes off, in whatever order they were put on."""
    found: list[str] = []
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)), None):
        found.append(prefix)
        stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(stripped) < len(tensors):
            twice = next(name for name in tensors if prefix + name in tensors)
            raise CheckpointError(f"{path} holds both {twice!r} and {prefix + twice!r}; expected one model in a file.")
        tensors = stripped
    return tensors, tuple(found)
