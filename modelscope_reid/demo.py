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

DRAWN = re.compile(r"(person\d+)_(camera\d+)")
"""The name of a drawn crop, which says who is on it and which camera took it."""


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
    """Return a line per image: its nearest other one, and what a calibrated model says of the two.

    Drawn crops are compared with those of other cameras, as re-identification is judged.
    """
    drawn = [match for match in map(DRAWN.fullmatch, names) if match]
    whole = len(drawn) == len(names)
    cameras = np.array([match[2] for match in drawn]) if whole else np.arange(len(names))
    others = np.where(cameras[:, None] == cameras[None, :], -np.inf, similarities)
    nearest = others.argmax(axis=1)
    width = max(map(len, names))
    which = "the nearest image by another camera" if whole else "the nearest other image"
    lines = [f"who is who: {which}" + (", and whether it shows the same person" if verifier else "")]
    for row, (name, found) in enumerate(zip(names, nearest, strict=True)):
        similarity = float(similarities[row, found])
        verdict = f"  {verifier.judge(similarity).decision}" if verifier else ""
        lines.append(f"{name:<{width}} -> {names[found]:<{width}} {similarity:6.3f}{verdict}")
    if whole:
        people = [match[1] for match in drawn]
        right = sum(person == people[found] for person, found in zip(people, nearest, strict=True))
        lines.append(f"{which} shows the same person for {right} of {len(names)}")
        lines.append("(the people are drawn, and the model was trained on photographs of real ones)")
    return lines
