"""A model to a folder that opens without PyTorch, in a lower precision on request, with proof of what that costs.

In: a model, and for int8 crops to calibrate with. Out: an exported folder and its `ParityReport`; or, where the
embeddings are further from PyTorch's in float32 than the precision's tolerance, an error and no folder. Knows nothing
of the command line.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.calibration_crops import Crops, CropSet, crop_paths, drawn_crops, read_crops
from modelscope_reid.config import ModelConfig
from modelscope_reid.configuration import read_verifier
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.evaluation import evaluate
from modelscope_reid.hub import bundled_model, resolve_model
from modelscope_reid.libraries import Library, require_library
from modelscope_reid.runtimes import Precision, Runtime, camera_count
from modelscope_reid.runtimes.exported_folder import (
    COMPUTED,
    ENGINES,
    GRAPH_FILES,
    ExportInfo,
    PackageVersion,
    commit,
    file_of,
    open_graph,
    place_for,
    read_export,
)
from modelscope_reid.runtimes.parity_report import (
    TOLERANCES,
    ExportFormat,
    ParityReport,
    RankingFigures,
    compare_embeddings,
)

if TYPE_CHECKING:
    from modelscope_reid.models.reid_model import ReidModel

logger = logging.getLogger(__name__)

LIBRARIES: dict[ExportFormat, tuple[Library, ...]] = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}
PACKAGES = ("modelscope_reid", "torch", "openvino", "nncf", "onnx", "onnxruntime")
HALF_STORED: tuple[Precision, ...] = ("fp16", "bf16")
"""Precisions whose weights are stored in float16: rounding to it is finer than bfloat16's own."""
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One export, checked: what is to be made, of what, and the crops that prove it."""

    network: ReidModel
    reference: Runtime
    crops: Crops
    format: ExportFormat
    precision: Precision
    dataset: Dataset | None
    threads: int | None
    progress: bool

    @property
    def config(self) -> ModelConfig:
        return self.network.config


def export_model(
    model: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    format: ExportFormat = "openvino",
    precision: Precision = "fp32",
    calibration: str | os.PathLike[str] | None = None,
    dataset: Dataset | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> ParityReport:
    """Export `model` (as `Embedder.from_pretrained` takes it; None is the package's own) to `folder`.

    `calibration` is a folder of crops, which int8 needs; a quarter of them, at most 128, is held out and compared.
    Without it the dataset's training split is taken, or, but for int8, drawn people. With `dataset` its queries and
    gallery are ranked by both networks. ``fp16`` is how weights are stored; ``bf16`` computes in bfloat16 on
    processors that can, and is OpenVINO's alone. The crops decide nothing but int8's scales.

    Raises:
        InputError: a precision that the format lacks, too few crops, a folder that holds other things, a library that
            is not installed; or a mean cosine below the precision's tolerance.
        HubError, CheckpointError, ConfigError: the model cannot be opened.
        ImageError: a crop that cannot be read.
    """
    target = Path(folder).absolute()
    crop_folder = None if calibration is None else Path(calibration)
    _check(format, precision, has_crops=crop_folder is not None or dataset is not None)
    place_for(target)
    source = bundled_model() if model is None else resolve_model(model)
    if source.is_dir() and read_export(source):
        raise InputError(f"{source} is an export already; export the model that it was made from.")
    from modelscope_reid.models.checkpoints import load_checkpoint
    from modelscope_reid.runtimes.torch_runtime import TorchRuntime

    network, report = load_checkpoint(source)
    for note in report.notes:
        logger.warning("%s: %s", report.source, note)
    job = _Job(
        network=network,
        reference=TorchRuntime(network, "cpu", threads=threads),
        crops=_crops(crop_folder, dataset, network.config),
        format=format,
        precision=precision,
        dataset=dataset,
        threads=threads,
        progress=progress,
    )
    parent = next(parent for parent in target.parents if parent.is_dir())  # the same disk, and nothing to clean up
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=parent) as staging:
            info = _make(job, Path(staging))
            verifier = read_verifier(source) if source.is_dir() else None
            commit(Path(staging), target, info=info, config=job.config, verifier=verifier)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; make room, or elsewhere.") from error
    return info.parity


def _check(format: ExportFormat, precision: Precision, *, has_crops: bool) -> None:
    """Raise InputError for what cannot be exported, before anything is opened."""
    if format not in LIBRARIES or precision not in TOLERANCES:
        expected = f"{' or '.join(LIBRARIES)}, in {', '.join(TOLERANCES)}"
        raise InputError(f"format is {format!r} and precision {precision!r}; expected {expected}.")
    if format == "onnx" and precision == "bf16":
        raise InputError("ONNX Runtime has no bf16 on a CPU; use --format openvino, or fp32, fp16 or int8.")
    if precision == "int8":
        if not has_crops:
            raise InputError(
                "int8 needs crops to calibrate with: give --calibration, a folder of some hundred crops of people, or "
                "--dataset with --root."
            )
        require_library("nncf")
    for library in LIBRARIES[format]:
        require_library(library)


def _crops(folder: Path | None, dataset: Dataset | None, config: ModelConfig) -> Crops:
    paths = crop_paths(folder, dataset)
    if not paths:
        return drawn_crops(config)
    return read_crops(paths, config, source=folder.name if folder else "the training images")


def _make(job: _Job, folder: Path) -> ExportInfo:
    """Write the graph's files into `folder`, compare what they give, and say what they are.

    Raises:
        InputError: the mean cosine is below the tolerance.
    """
    from modelscope_reid.runtimes.graph_files import FORMATS

    form, left_in_float = FORMATS[job.format], tuple[str, ...]()
    graph = form.make(job.network)
    if job.precision == "int8":
        graph, left_in_float = _quantized(job, graph)
    versions = tuple(_versions())
    metadata: Mapping[str, Any] = {
        "config": job.config.to_dict(),
        "precision": job.precision,
        "layout": ExportInfo.layout,
        "fingerprint": job.reference.fingerprint,
        "opset": form.opset(graph),
        "versions": {package.name: package.version for package in versions},
    }
    paths = [folder / name for name in GRAPH_FILES[job.format]]
    try:
        form.write(graph, paths[0], metadata, job.precision in HALF_STORED)
    except RuntimeError as error:  # OpenVINO's for a full disk
        raise InputError(f"the graph cannot be written: {error}; make room, or elsewhere.") from error
    exported = open_graph(
        paths[0],
        ENGINES[job.format][0],
        config=job.config,
        fingerprint=job.reference.fingerprint,
        precision=COMPUTED[job.precision],
        threads=job.threads,
    )
    return ExportInfo(
        format=job.format,
        precision=job.precision,
        opset=metadata["opset"],
        fingerprint=job.reference.fingerprint,
        files=tuple(map(file_of, paths)),
        versions=versions,
        parity=_compare(job, exported, left_in_float),
    )


def _quantized(job: _Job, graph: Any) -> tuple[Any, tuple[str, ...]]:
    from modelscope_reid.runtimes.quantization import quantize

    ((images, camera_ids),) = job.crops.calibration.batches(len(job.crops.calibration))
    inputs: dict[str, NDArray[Any]] = {"images": images}
    if camera_count(job.config):
        inputs["camera_ids"] = camera_ids
    return quantize(
        graph,
        inputs,
        _plain_embeddings(job.network, job.crops.calibration),
        format=job.format,
        config=job.config,
        threads=job.threads,
        progress=job.progress,
    )


def _compare(job: _Job, exported: Runtime, left_in_float: tuple[str, ...]) -> ParityReport:
    """Return the report, or raise InputError where it does not pass; the dataset is not ranked then."""
    crops = job.crops.held_out
    embeddings = np.concatenate([exported.run(images, camera_ids) for images, camera_ids in crops.batches(BATCH)])
    parity = ParityReport(
        format=job.format,
        precision=job.precision,
        computed_in=exported.precision,
        crops=job.crops.source,
        cosines=compare_embeddings(_plain_embeddings(job.network, crops), embeddings),
        tolerance=TOLERANCES[job.precision],
        left_in_float=left_in_float,
    )
    near = parity.cosines
    if not parity.passed:
        advice = "calibrate with more crops, of the cameras it is for" if job.precision == "int8" else "use fp32"
        raise InputError(
            f"nothing is written, for the embeddings are too far from PyTorch's on {near.count} crops: mean cosine "
            f"{near.cosine_mean:.6f} (expected {parity.tolerance:g} in {job.precision}), without what all crops share "
            f"{near.centred_mean:.6f} ({parity.centred_tolerance:g}); {advice}, or choose a higher precision."
        )
    if job.dataset is None:
        return parity
    figures = [_figures(runtime, job) for runtime in (job.reference, exported)]
    return dataclasses.replace(parity, dataset=job.dataset.name, torch=figures[0], exported=figures[1])


def _plain_embeddings(network: ReidModel, crops: CropSet) -> NDArray[np.float32]:
    """Embed with the network as it is, without what any runtime of this package does to it."""
    import torch

    with torch.inference_mode():
        batches = [
            network(torch.from_numpy(images), torch.from_numpy(camera_ids)).numpy()
            for images, camera_ids in crops.batches(BATCH)
        ]
    return np.concatenate(batches)


def _figures(runtime: Runtime, job: _Job) -> RankingFigures:
    assert job.dataset is not None
    ranking = evaluate(Embedder(runtime, job.config), job.dataset, progress=job.progress).ranking
    return RankingFigures(mAP=ranking.mAP, rank1=ranking.rank(1))


def _versions() -> list[PackageVersion]:
    """Return the versions of the packages that had a part, those that are installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(PackageVersion(name=name, version=version(name)))
        except PackageNotFoundError:
            continue
    return found
