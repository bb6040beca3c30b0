"""Which engine runs a network: the one that is named, or the fastest that is exact on this machine.

In: a filled `ReidModel`. Out: a `Runtime`. What was measured once is remembered in the user's cache folder. Knows
nothing of image files or exported folders.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.libraries import Library, has_library
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import Precision, Runtime, RuntimeChoice, RuntimeName, camera_count
from modelscope_reid.runtimes.caches import cache_folder, key_of, recall, remember
from modelscope_reid.runtimes.graphs import OPSET, to_openvino, write_onnx
from modelscope_reid.runtimes.machine import cpu_name, default_threads
from modelscope_reid.runtimes.onnx_runtime import OnnxRuntime
from modelscope_reid.runtimes.openvino_runtime import OpenVinoRuntime
from modelscope_reid.runtimes.torch_runtime import NEEDS_EXPORT, TorchRuntime, fingerprint_of

RUNTIME_VARIABLE = "MODELSCOPE_REID_RUNTIME"
"""The environment variable that says what "auto" is."""
EXACT = 1e-4
"""The largest difference from PyTorch in float32 that "auto" allows an engine, as a share of the largest number."""
CLOSE = 0.999
"""The least cosine similarity of the same, where a lower precision is asked for."""
TRIAL_IMAGES = 8
TRIALS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wish:
    """A network and how it is to be run."""

    network: ReidModel
    precision: Precision
    device: str | None
    threads: int | None


def _open_torch(wish: _Wish) -> Runtime:
    return TorchRuntime(wish.network, wish.device, precision=wish.precision, threads=wish.threads)


def _open_openvino(wish: _Wish) -> Runtime:
    folder = cache_folder()
    return OpenVinoRuntime(
        lambda: to_openvino(wish.network.cpu()),
        config=wish.network.config,
        fingerprint=fingerprint_of(wish.network),
        precision=wish.precision,
        device=wish.device,
        threads=wish.threads,
        cache=folder / "openvino" if folder else None,
    )


def _open_onnx(wish: _Wish) -> Runtime:
    fingerprint, folder = fingerprint_of(wish.network), cache_folder()
    kept = folder / "onnx" / f"{key_of(fingerprint, OPSET, version('torch'))}.onnx" if folder else None
    graph = recall(kept) if kept else None
    if graph is None:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "model.onnx"
            write_onnx(wish.network.cpu(), path)
            graph = path.read_bytes()
        if kept:
            remember(kept, graph)
    return OnnxRuntime(
        graph,
        config=wish.network.config,
        fingerprint=fingerprint,
        precision=wish.precision,
        device=wish.device,
        threads=wish.threads,
    )


OPENERS: dict[RuntimeName, Callable[[_Wish], Runtime]] = {
    "torch": _open_torch,
    "openvino": _open_openvino,
    "onnxruntime": _open_onnx,
}
LIBRARIES: dict[RuntimeName, tuple[Library, ...]] = {
    "torch": (),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx"),
}
"""What each engine needs besides torch, which the network itself is made of."""


def open_runtime(
    network: ReidModel,
    *,
    runtime: RuntimeChoice = "auto",
    precision: Precision = "fp32",
    device: str | None = None,
    threads: int | None = None,
) -> Runtime:
    """Return what runs `network`: the engine named, or with ``auto`` the fastest that is exact on this machine.

    ``auto`` is PyTorch on a GPU, and where no other engine is installed. Else the installed ones are timed on a batch
    of seeded images, once: the outcome is remembered. One whose embeddings differ from PyTorch's in float32 by more
    than `EXACT` (for a lower precision: whose cosine similarity to them is below `CLOSE`) is left out. The environment
    variable MODELSCOPE_REID_RUNTIME names what ``auto`` is. `device` is in the engine's own words.

    Raises:
        InputError: an unknown engine, a library that is not installed, or a device or precision that it does not have.
    """
    if runtime not in get_args(RuntimeChoice):
        raise InputError(f"runtime is {runtime!r}; expected one of {', '.join(get_args(RuntimeChoice))}.")
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}; expected one of {', '.join(get_args(Precision))}.")
    if precision == "int8":
        raise InputError(NEEDS_EXPORT)
    wish = _Wish(network, precision, device, threads)
    name = _from_environment() if runtime == "auto" else runtime
    return _fastest(wish) if name == "auto" else OPENERS[name](wish)


def _from_environment() -> RuntimeChoice:
    """Return what the environment says that "auto" is; "auto" where it says nothing.

    Raises:
        InputError: there is no engine of that name.
    """
    named = os.environ.get(RUNTIME_VARIABLE) or "auto"
    choices: tuple[RuntimeChoice, ...] = get_args(RuntimeChoice)
    for name in choices:
        if name == named:
            return name
    raise InputError(f"{RUNTIME_VARIABLE} is {named!r}; expected one of {', '.join(choices)}.")


def _fastest(wish: _Wish) -> Runtime:
    installed = [name for name, libraries in LIBRARIES.items() if all(map(has_library, libraries))]
    on_cpu = wish.device == "cpu" or (wish.device is None and not torch.cuda.is_available())
    if not on_cpu or wish.precision == "fp16" or installed == ["torch"]:
        return _open_torch(wish)
    folder = cache_folder()
    versions = [version(library) for name in installed for library in (LIBRARIES[name] or ("torch",))]
    threads = wish.threads or default_threads()
    key = key_of(wish.network.config, installed, versions, cpu_name(), os.cpu_count(), threads, wish.precision)
    path = folder / "choices" / f"{key}.json" if folder else None
    chosen = _remembered(path, installed)
    if chosen:
        logger.info("%s: the fastest of %s here when they were timed", chosen, ", ".join(installed))
        return OPENERS[chosen](wish)
    return _measured(wish, installed, path)


def _remembered(path: Path | None, installed: list[RuntimeName]) -> RuntimeName | None:
    """Return the engine that was chosen before, or None where nothing sound is remembered."""
    data = recall(path) if path else None
    chosen = json.loads(data).get("runtime") if data else None
    return chosen if chosen in installed else None


def _measured(wish: _Wish, installed: list[RuntimeName], path: Path | None) -> Runtime:
    """Time the engines and return the fastest; remember which it is in `path`."""
    images = np.random.default_rng(0).standard_normal((TRIAL_IMAGES, 3, *wish.network.config.image_size), np.float32)
    cameras = camera_count(wish.network.config)
    camera_ids = np.arange(TRIAL_IMAGES) % (cameras + 1) - 1 if cameras else None
    plain = TorchRuntime(wish.network, "cpu", threads=wish.threads)
    expected = plain.run(images, camera_ids)
    timed: dict[RuntimeName, tuple[float, Runtime]] = {}
    for name in installed:
        try:
            candidate = plain if name == "torch" and wish.precision == "fp32" else OPENERS[name](wish)
        except (InputError, CheckpointError) as error:  # a precision that it does not have, a graph that it cannot run
            logger.info("%s is left out: %s", name, error)
            continue
        if _is_exact(candidate.run(images, camera_ids), expected, candidate):
            timed[name] = (_milliseconds(candidate, images, camera_ids), candidate)
    chosen = _best(timed, wish.precision)
    figures = {name: round(milliseconds, 2) for name, (milliseconds, _) in timed.items()}
    text = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in figures.items())
    logger.info("%s: the fastest here, in ms per image of a batch of %d: %s", chosen, TRIAL_IMAGES, text)
    if path:
        remember(path, json.dumps({"runtime": chosen, "milliseconds_per_image": figures}).encode())
    return timed[chosen][1]


def _best(timed: dict[RuntimeName, tuple[float, Runtime]], precision: Precision) -> RuntimeName:
    """Return the fastest of those that compute in `precision`, or of all where none does."""
    offered = {name: found for name, found in timed.items() if found[1].precision == precision} or timed
    return min(offered, key=lambda name: offered[name][0])


def _is_exact(embeddings: NDArray[np.float32], expected: NDArray[np.float32], candidate: Runtime) -> bool:
    """Tell whether embeddings (B, D) are those expected, within what the candidate's precision allows; log if not."""
    difference = float(np.abs(embeddings - expected).max() / np.abs(expected).max())
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(((embeddings * expected).sum(axis=1) / lengths).min())  # NaN where embeddings are
    exact = difference <= EXACT if candidate.precision == "fp32" else cosine >= CLOSE
    if not exact:  # NaN is not exact either
        logger.warning(
            "%s in %s is left out: its embeddings differ from PyTorch's by %.2g of the largest number, cosine %.5f",
            candidate.name,
            candidate.precision,
            difference,
            cosine,
        )
    return exact


def _milliseconds(runtime: Runtime, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None) -> float:
    """Return the least time per image of a few runs, each engine being warm."""
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        runtime.run(images, camera_ids)
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / len(images)
