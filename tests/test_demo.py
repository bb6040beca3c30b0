"""The demonstration, with a tiny model here and, marked slow, as `make demo` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, ReidModel, cosine_similarity, save_pretrained
from modelscope_reid.demo import run_demo

ASSETS = Path(__file__).parents[1] / "assets"


def table(text: str) -> np.ndarray:
    """The numbers of the similarity table at the end of the demo's text."""
    rows = [line.split()[2:] for line in text.splitlines() if re.match(r"\s*\d+ person", line)]
    return np.array(rows, dtype=float)


def test_the_table_holds_the_similarities_of_the_named_images(tmp_path: Path) -> None:
    folder = str(save_pretrained(ReidModel.with_seed(TINY_CONFIGS["pass_vit"]), tmp_path))
    text = run_demo([str(ASSETS)], model=folder)
    assert "12 images -> embeddings (12, 128) float32" in text and "person04_camera3" in text
    assert "random weights" not in text
    vectors = Embedder.from_pretrained(folder, device="cpu").embed(sorted(map(str, ASSETS.glob("*.png"))))
    np.testing.assert_allclose(table(text), cosine_similarity(vectors, vectors), atol=6e-4)


@pytest.mark.slow
def test_without_arguments_it_draws_its_own_crops_and_says_that_the_weights_are_random(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "modelscope_reid", "demo"]
    drawn = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    named = subprocess.run([*run, str(ASSETS)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "random\nweights" in drawn.stdout or "random weights" in drawn.stdout
    assert "12 images -> embeddings (12, 1536) float32" in drawn.stdout
    np.testing.assert_array_equal(table(drawn.stdout), table(named.stdout))  # assets/ holds what it draws
    np.testing.assert_array_equal(np.diag(table(drawn.stdout)), 1.0)
    assert not list(tmp_path.iterdir())
