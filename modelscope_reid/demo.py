"""The demonstration: drawn crops through the registered ModelScope pipeline, and who is who among them.

In: image paths and a model, both optional. Out: a text to print. Uses the same calls as a user would.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.configuration import read_verifier
from modelscope_reid.datasets.image_files import find_images
from modelscope_reid.datasets.synthetic import draw_sample_crops
from modelscope_reid.hub import bundled_model, resolve_model
from modelscope_reid.ranking.calibration import Verifier
from modelscope_reid.ranking.similarity import cosine_similarity

DRAWN = re.compile(r"(person\d+)_camera\d+")
"""The name of a drawn crop, which says who is on it."""


def run_demo(images: Sequence[str], *, model: str | None = None) -> str:
    """Embed `images` (none: the drawn sample crops) with `model` (none: the package's own); return the text.

    Raises:
        HubError, CheckpointError, ConfigError: the model cannot be opened; ImageError: an image cannot be read.
    """
    from modelscope.outputs import OutputKeys
    from modelscope.pipelines import pipeline

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers the pipeline

    folder = resolve_model(model) if model else bundled_model()
    reid = pipeline("image-reid-person", model=str(folder))
    with tempfile.TemporaryDirectory(prefix="modelscope-reid-demo-") as scratch:
        paths = find_images(images) if images else [str(path) for path in draw_sample_crops(Path(scratch))]
        vectors = np.concatenate([output[OutputKeys.IMG_EMBEDDING] for output in reid(paths)])
    names, similarities = [Path(path).stem for path in paths], cosine_similarity(vectors, vectors)
    lines = [f"{len(paths)} images -> embeddings {vectors.shape} {vectors.dtype} of {folder.name}", ""]
    lines += _table(names, similarities)
    if len(names) > 1:
        lines += ["", *_who_is_who(names, similarities, read_verifier(folder) if folder.is_dir() else None)]
    return "\n".join(lines)


def _table(names: Sequence[str], similarities: NDArray[np.float32]) -> list[str]:
    width = max(map(len, names))
    header = "cosine similarity".ljust(width) + "".join(f"{column:>7d}" for column in range(1, len(names) + 1))
    rows = [
        f"{index:>3d} {name:<{max(width, 13)}}" + "".join(f"{value:7.3f}" for value in row)
        for index, (name, row) in enumerate(zip(names, similarities, strict=True), start=1)
    ]
    return [header.rjust(len(rows[0])), *rows]


def _who_is_who(names: Sequence[str], similarities: NDArray[np.float32], verifier: Verifier | None) -> list[str]:
    """Return a line per image: its nearest other one, and what a calibrated model says of the two."""
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    nearest = others.argmax(axis=1)
    width = max(map(len, names))
    lines = ["who is who: the nearest other image" + (", and whether it shows the same person" if verifier else "")]
    for row, (name, found) in enumerate(zip(names, nearest, strict=True)):
        similarity = float(others[row, found])
        verdict = f"  {verifier.judge(similarity).decision}" if verifier else ""
        lines.append(f"{name:<{width}} -> {names[found]:<{width}} {similarity:6.3f}{verdict}")
    people = [match[1] for match in map(DRAWN.fullmatch, names) if match]
    if len(people) == len(names):
        right = sum(person == people[found] for person, found in zip(people, nearest, strict=True))
        lines.append(f"the nearest other image shows the same person for {right} of {len(names)}")
    return lines
