"""Commands on models themselves: say what one is, convert it, export it, time it.

Each is a thin face of a library function. cli.py lists them; results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Literal

from modelscope_reid.config import Activation, Layout
from modelscope_reid.errors import InputError
from modelscope_reid.runtimes import Precision
from modelscope_reid.runtimes.parity_report import ExportFormat


def inspect(checkpoint: str, *, layout: Layout | None = None, json: bool = False) -> int:
    """Say what a checkpoint is, and what becomes of each of its tensors; or what an exported folder is.

    Args:
        checkpoint: Checkpoint file, model folder, exported folder or hub id.
        layout: For a CLIP ViT: clip-reid (1280 numbers) or 1536.
        json: Print one JSON object with every name instead of the summary.
    """
    from modelscope_reid.hub import resolve_model
    from modelscope_reid.models.checkpoints import load_checkpoint
    from modelscope_reid.runtimes.exported_folder import read_export

    path = resolve_model(checkpoint)
    report = (read_export(path) if path.is_dir() else None) or load_checkpoint(path, layout=layout)[1]
    print(dumps(report.to_dict()) if json else report)
    return 0


def convert(
    checkpoint: str,
    *,
    output: str,
    layout: Layout = "1536",
    image_size: tuple[int, int] | None = None,
    activation: Activation | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    drop_classifier: bool = False,
) -> int:
    """Turn any checkpoint into a ModelScope model folder: model.safetensors and configuration.json.

    Args:
        checkpoint: Checkpoint file, model folder or hub id.
        output: Folder to write; made where it does not exist.
        layout: For a CLIP ViT: 1536, the pipeline's contract, or clip-reid (1280 numbers), the paper's.
        image_size: Height and width to run at; the positions are resampled. By default the checkpoint's own.
        activation: gelu for CLIP weights that were not trained with QuickGELU (open_clip's LAION models).
        dtype: float16 halves the file; what opens it computes in float32.
        drop_classifier: Leave out the classifier, which only training needs.
    """
    from modelscope_reid.hub import resolve_model
    from modelscope_reid.models.model_folder import convert_checkpoint

    report = convert_checkpoint(
        resolve_model(checkpoint),
        output,
        layout=layout,
        image_size=image_size,
        activation=activation,
        dtype=dtype,
        classifier=not drop_classifier,
    )
    print(report)
    print(f"written to {output}")
    return 0


def export(
    *,
    output: str,
    model: str | None = None,
    format: ExportFormat = "openvino",
    precision: Precision = "fp32",
    calibration: str | None = None,
    dataset: str | None = None,
    root: str | None = None,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Write a model as OpenVINO or ONNX, after proof that its embeddings stay the same.

    Args:
        output: Folder to write; it opens as a model does.
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        format: openvino, or onnx for ONNX Runtime.
        precision: fp32; fp16, which halves the files; bf16, for processors that compute in it (openvino only); int8.
        calibration: Folder of crops of people, some hundred: int8 needs them, and all are compared on those held out.
        dataset: Name of a dataset, as evaluate has them: mAP and Rank-1 of both networks are compared on it.
        root: Folder of the dataset; its training images are the crops where --calibration is not given.
        threads: Processor threads; by default as many as this process may use.
        json: Print one JSON object instead of the report.
    """
    if (dataset is None) != (root is None):
        raise InputError("--dataset and --root go together: the name of a dataset, and its folder.")
    from modelscope_reid.datasets.readers import read_dataset
    from modelscope_reid.model_export import export_model

    report = export_model(
        model,
        output,
        format=format,
        precision=precision,
        calibration=calibration,
        dataset=read_dataset(dataset, root) if dataset and root else None,
        threads=threads,
        progress=sys.stderr.isatty(),
    )
    print(dumps(report.to_dict()) if json else report)
    if not json:
        print(f"written to {Path(output)}")
    return 0


def benchmark(
    exported: list[str],
    *,
    model: str | None = None,
    images: str | None = None,
    batch_size: int = 32,
    rounds: int = 5,
    device: str | None = None,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Measure how fast a model is here, in every runtime that is installed, and how exact.

    Args:
        exported: Folders that export wrote from this model, to be measured too: int8, for example.
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        images: Folder of crops, or one image; by default crops drawn on the spot.
        batch_size: Images that go through the network at once, beside one by itself.
        rounds: How often each takes its turn; the median counts.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        threads: Processor threads; by default as many as this process may use.
        json: Print one JSON object instead of the table.
    """
    from modelscope_reid.speed import measure_speed

    table = measure_speed(
        model,
        exported=exported,
        images=[images] if images else (),
        batch_size=batch_size,
        rounds=rounds,
        device=device,
        threads=threads,
        progress=sys.stderr.isatty(),
    )
    print(dumps(table.to_dict()) if json else table)
    return 0
