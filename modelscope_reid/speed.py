"""How fast a model is on this machine, and how exact: every runtime that is installed, in turns, as a table.

In: a model, and on request exported folders of it and crops. Out: a `SpeedTable`, which prints itself as Markdown. The
measure of all rows is the same network in plain eager PyTorch, without anything of this package's runtimes. Knows
nothing of image files' decoding, which is the same for all, or of the command line.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from modelscope_reid.config import ModelConfig
from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.image_files import find_images
from modelscope_reid.datasets.synthetic import draw_crop, sample_camera
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.hub import bundled_model, resolve_model
from modelscope_reid.images import load_image
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.ranking.similarity import normalize
from modelscope_reid.runtimes import Precision, Runtime, RuntimeName
from modelscope_reid.runtimes.machine import cpu_name, usable_cores

if TYPE_CHECKING:
    from modelscope_reid.models.reid_model import ReidModel

Pixels = NDArray[np.float32]
Run = Callable[[Pixels], NDArray[np.float32]]

PLAIN = "plain PyTorch"
"""The name of the row that all are measured against."""
LIVE_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
"""What a runtime computes in without an export."""
SINGLES = 3
"""How often one image is run by itself in a round, after once to warm up; the quickest counts."""
PACKAGES = ("modelscope", "torch", "openvino", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One runtime in one precision: milliseconds of one image by itself, images a second in batches.

    `cosine_mean` and `cosine_min` compare its embeddings with plain PyTorch's in float32.
    """

    system: str
    precision: Precision
    milliseconds: float
    images_per_second: float
    cosine_mean: float
    cosine_min: float


@dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """The rows, plain PyTorch first, and how they were made."""

    rows: tuple[SpeedRow, ...]
    model: str
    image_size: tuple[int, int]
    batch_size: int
    rounds: int
    images: str
    machine: str
    left_out: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the table as Markdown, with a line below it on how it was made."""
        base = self.rows[0]
        lines = [
            "| runtime | precision | one image, ms | images/s | times plain PyTorch | cosine to it, mean / min |",
            "|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            times = f"{base.milliseconds / row.milliseconds:.2f} / {row.images_per_second / base.images_per_second:.2f}"
            equal = "" if row is base else f"{row.cosine_mean:.6f} / {row.cosine_min:.6f}"
            lines.append(
                f"| {row.system} | {row.precision} | {row.milliseconds:.1f} | {row.images_per_second:.1f} | "
                f"{'' if row is base else times} | {equal} |"
            )
        height, width = self.image_size
        about = (
            f"{self.model} at {height}x{width}, batches of {self.batch_size}, median of {self.rounds} rounds, "
            f"{self.images}; times: one image / batches. {self.machine}"
        )
        return "\n".join([*lines, "", about, *(f"left out: {reason}" for reason in self.left_out)])


@dataclass
class _Contestant:
    """A runtime, and what it has shown so far."""

    system: str
    precision: Precision
    run: Run
    single: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def take_turn(self, pixels: Pixels) -> None:
        """Run one image by itself a few times, then all."""
        self.run(pixels[:1])
        self.single.append(min(self._timed(pixels[:1]) for _ in range(SINGLES)))
        self.batch.append(self._timed(pixels) / len(pixels))

    def _timed(self, pixels: Pixels) -> float:
        start = time.perf_counter()
        self.vectors = self.run(pixels)
        return time.perf_counter() - start

    def row(self, base: _Contestant) -> SpeedRow:
        """Return the medians, and the likeness to `base`."""
        cosines = (normalize(self.vectors).astype(np.float64) * normalize(base.vectors)).sum(axis=1)
        return SpeedRow(
            system=self.system,
            precision=self.precision,
            milliseconds=1000 * statistics.median(self.single),
            images_per_second=1 / statistics.median(self.batch),
            cosine_mean=float(cosines.mean()),
            cosine_min=float(cosines.min()),
        )


def measure_speed(
    model: str | os.PathLike[str] | None = None,
    *,
    exported: Sequence[str | os.PathLike[str]] = (),
    images: Sequence[str] = (),
    batch_size: int = 32,
    rounds: int = 5,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> SpeedTable:
    """Measure `model` (None: the light one) in every installed runtime, and each folder of `exported`.

    The folders are exports of the same model (`modelscope-reid export`), int8 for example. `images` are files or
    folders of crops; without any, drawn crops are used. Runtimes take turns, `rounds` times, after one turn that does
    not count.

    Raises:
        InputError: `batch_size` or `rounds` below 1, a model that is itself an export, an export of another model.
        HubError, CheckpointError, ConfigError: a model cannot be opened; ImageError: an image cannot be read.
    """
    if min(batch_size, rounds) < 1:
        raise InputError(f"batch_size is {batch_size} and rounds is {rounds}; expected 1 or more of each.")
    from modelscope_reid.models.checkpoints import load_checkpoint

    path = bundled_model() if model is None else resolve_model(model)
    network = load_checkpoint(path)[0]
    pixels, said = _crops(images, batch_size, network.config)
    contestants = [_Contestant(PLAIN, "fp32", _plain(network, device))]
    found, left_out = _live_runtimes(network, device=device, threads=threads)
    contestants += [_contestant(runtime) for runtime in found]
    for folder in exported:
        runtime = _open_export(folder, found, device=device, threads=threads)
        contestants.append(_contestant(runtime, folder=Path(folder).name))
    for turn in tqdm(range(1 + rounds), desc="rounds", disable=not progress):
        for contestant in contestants if turn % 2 == 0 else contestants[::-1]:
            contestant.take_turn(pixels)
            if turn == 0:
                contestant.single.clear()
                contestant.batch.clear()
    return SpeedTable(
        rows=tuple(contestant.row(contestants[0]) for contestant in contestants),
        model=Path(path).name,
        image_size=network.config.image_size,
        batch_size=batch_size,
        rounds=rounds,
        images=said,
        machine=describe_machine(),
        left_out=tuple(left_out),
    )


def _crops(images: Sequence[str], count: int, config: ModelConfig) -> tuple[Pixels, str]:
    """Return (count, 3, H, W) normalised pixels, and what they show in words."""
    if images:
        paths = find_images(images)
        if not paths:
            raise InputError(f"{', '.join(images)}: no image found; expected image files, or folders of them.")
        pictures, said = [load_image(path) for path in paths[:count]], f"{min(count, len(paths))} crops"
    else:
        pictures = [
            draw_crop(sample_appearance(number), sample_camera(number % 3), seed=number, size=config.image_size)
            for number in range(1, 1 + min(count, 16))
        ]
        said = f"{len(pictures)} drawn crops"
    crops = [resize(picture, config.preprocessing) for picture in pictures]
    return to_batch(list(islice(cycle(crops), count)), config.preprocessing), said


def _plain(network: ReidModel, device: str | None) -> Run:
    """Return the network as PyTorch runs it by itself, in float32."""
    import torch

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = network.eval().to(place)

    @torch.inference_mode()
    def run(pixels: Pixels) -> NDArray[np.float32]:
        embeddings: NDArray[np.float32] = model(torch.from_numpy(pixels).to(place)).cpu().numpy()
        return embeddings

    return run


def _live_runtimes(network: ReidModel, *, device: str | None, threads: int | None) -> tuple[list[Runtime], list[str]]:
    """Open every runtime and precision that this machine has; return them, and why the others were left out."""
    from modelscope_reid.runtimes.choice import open_runtime

    found: list[Runtime] = []
    left_out: list[str] = []
    for name in get_args(RuntimeName):
        for precision in LIVE_PRECISIONS:
            try:
                runtime = open_runtime(network, runtime=name, precision=precision, device=device, threads=threads)
            except InputError as error:
                left_out.append(f"{name} {precision}: {error}")
                continue
            if runtime.precision == precision:
                found.append(runtime)
            else:
                left_out.append(f"{name} {precision}: this machine computes it in {runtime.precision}")
    return found, left_out


def _open_export(
    folder: str | os.PathLike[str], others: Sequence[Runtime], *, device: str | None, threads: int | None
) -> Runtime:
    runtime = Embedder.from_pretrained(folder, device=device, threads=threads).runtime
    if others and runtime.fingerprint != others[0].fingerprint:
        raise InputError(f"{os.fspath(folder)} is an export of another model; give exports of --model.")
    return runtime


def _contestant(runtime: Runtime, *, folder: str = "") -> _Contestant:
    name = runtime.name.removesuffix(" on cpu")
    return _Contestant(f"{name}, {folder}" if folder else name, runtime.precision, runtime.run)


def describe_machine() -> str:
    """Return processor, cores and versions in one line."""
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    cores = f"{usable_cores()} cores"
    return f"{cpu_name()}, {cores}; Python {platform.python_version()}, {', '.join(versions)}"
