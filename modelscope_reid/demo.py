"""The demonstration: drawn crops through the registered ModelScope pipeline, shapes and similarities as text.

In: image paths and a model folder, both optional. Out: a text to print. Uses the same calls as a user would.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.config import PassVitConfig
from modelscope_reid.datasets.image_files import find_images
from modelscope_reid.datasets.synthetic import draw_sample_crops
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.ranking.similarity import cosine_similarity

SEED = 0


def run_demo(images: Sequence[str], *, model: str | None = None) -> str:
    """Embed `images` (none: the drawn sample crops) with `model` (none: seeded random weights); return the text."""
    from modelscope.outputs import OutputKeys
    from modelscope.pipelines import pipeline

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers the pipeline

    with tempfile.TemporaryDirectory(prefix="modelscope-reid-demo-") as scratch:
        folder = Path(scratch)
        lines = []
        if model is None:
            config = PassVitConfig(num_classes=751)
            model = str(save_pretrained(ReidModel.with_seed(config, SEED), folder / "model"))
            lines += [
                "No model was named and no published weights come with the package yet, so a PASS ViT-B/16 with",
                f"random weights (seed {SEED}) was made. Its numbers show that everything runs, not who is who.",
                "",
            ]
        paths = find_images(images) if images else [str(path) for path in draw_sample_crops(folder / "crops")]
        reid = pipeline("image-reid-person", model=model)
        vectors = np.concatenate([output[OutputKeys.IMG_EMBEDDING] for output in reid(paths)])
    lines += [f"{len(paths)} images -> embeddings {vectors.shape} {vectors.dtype}", ""]
    return "\n".join([*lines, *_table([Path(path).stem for path in paths], cosine_similarity(vectors, vectors))])


def _table(names: Sequence[str], similarities: NDArray[np.float32]) -> list[str]:
    width = max(map(len, names))
    header = "cosine similarity".ljust(width) + "".join(f"{column:>7d}" for column in range(1, len(names) + 1))
    rows = [
        f"{index:>3d} {name:<{max(width, 13)}}" + "".join(f"{value:7.3f}" for value in row)
        for index, (name, row) in enumerate(zip(names, similarities, strict=True), start=1)
    ]
    return [header.rjust(len(rows[0])), *rows]
