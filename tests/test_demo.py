"""The demonstration, with a tiny model here and, marked slow, as `make demo` runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, ReidModel, cosine_similarity, save_pretrained
from modelscope_reid.configuration import write_verifier
from modelscope_reid.demo import run_demo
from modelscope_reid.ranking.calibration import PlattCalibration, Verifier
from modelscope_reid.ranking.verification import DecisionThresholds

ASSETS = Path(__file__).parents[1] / "assets"


def table(text: str) -> np.ndarray:
    """The numbers of the similarity table at the end of the demo's text."""
    rows = [line.split()[2:] for line in text.splitlines() if re.match(r"\s*\d+ person", line)]
    return np.array(rows, dtype=float)


def test_the_table_holds_the_similarities_of_the_named_images(tmp_path: Path) -> None:
    folder = str(save_pretrained(ReidModel.with_seed(TINY_CONFIGS["pass_vit"]), tmp_path))
    text = run_demo([str(ASSETS)], model=folder)
    assert "12 images -> embeddings (12, 128) float32" in text and "person04_camera3" in text
    vectors = Embedder.from_pretrained(folder, device="cpu").embed(sorted(map(str, ASSETS.glob("*.png"))))
    np.testing.assert_allclose(table(text), cosine_similarity(vectors, vectors), atol=6e-4)


def answers(text: str) -> list[list[str]]:
    """The words of the lines that name each image's nearest other one: image, ->, nearest, similarity, verdict."""
    return [line.split() for line in text.splitlines() if " -> " in line and "embeddings" not in line]


def test_each_image_is_answered_with_the_nearest_one_by_another_camera(tmp_path: Path) -> None:
    folder = str(save_pretrained(ReidModel.with_seed(TINY_CONFIGS["osnet"]), tmp_path / "model"))
    text = run_demo([str(ASSETS)], model=folder)
    names = sorted(path.stem for path in ASSETS.glob("*.png"))
    vectors = Embedder.from_pretrained(folder, device="cpu").embed(sorted(map(str, ASSETS.glob("*.png"))))
    similarities = cosine_similarity(vectors, vectors)
    lines = answers(text)
    assert [line[0] for line in lines] == names and {len(line) for line in lines} == {4}  # no verdict: not calibrated
    right = 0
    for row, (_, _, found, similarity) in enumerate(lines):
        others = [column for column in range(12) if names[column][-7:] != names[row][-7:]]  # camera1, camera2, camera3
        assert float(similarity) == pytest.approx(max(similarities[row, others]), abs=6e-4)
        assert float(similarity) == pytest.approx(similarities[row, names.index(found)], abs=6e-4)
        right += names[row][:8] == found[:8]
    assert f"the nearest image by another camera shows the same person for {right} of 12" in text


def test_the_packages_own_model_tells_most_drawn_people_apart() -> None:
    """Three of four people stand for 9 of 12 images; chance is 2 right ones among 8 by other cameras, 3 of 12."""
    text = run_demo([str(ASSETS)])
    found = re.search(r"shows the same person for (\d+) of 12", text)
    assert found is not None and int(found[1]) >= 9


def test_a_calibrated_model_says_same_or_different(tmp_path: Path) -> None:
    folder = save_pretrained(ReidModel.with_seed(TINY_CONFIGS["osnet"]), tmp_path / "model")
    similarities = [float(line[3]) for line in answers(run_demo([str(ASSETS)], model=str(folder)))]
    middle = float(np.median(similarities))  # half of the answers are to be the same person, half not
    thresholds = DecisionThresholds(same_from=middle, different_below=middle)
    write_verifier(folder, Verifier(calibration=PlattCalibration(slope=8.0, intercept=0.0), thresholds=thresholds))
    lines = answers(run_demo([str(ASSETS)], model=str(folder)))
    assert {line[4] for line in lines} == {"same", "different"}
    least = min(float(line[3]) for line in lines if line[4] == "same")
    assert all(float(line[3]) <= least for line in lines if line[4] == "different")


def test_images_of_ones_own_are_not_counted_as_right_or_wrong_and_one_has_no_other(tmp_path: Path) -> None:
    folder = str(save_pretrained(ReidModel.with_seed(TINY_CONFIGS["osnet"]), tmp_path / "model"))
    for name in ("me", "you"):
        shutil.copy(ASSETS / "person01_camera1.png", tmp_path / f"{name}.png")
    text = run_demo([str(tmp_path / "me.png"), str(tmp_path / "you.png")], model=folder)
    assert [line[:3] for line in answers(text)] == [["me", "->", "you"], ["you", "->", "me"]]
    assert "same person for" not in text
    assert answers(run_demo([str(tmp_path / "me.png")], model=folder)) == []


@pytest.mark.slow
def test_without_arguments_it_draws_its_own_crops_and_opens_the_packages_own_model(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "modelscope_reid", "demo"]
    drawn = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    named = subprocess.run([*run, str(ASSETS)], capture_output=True, text=True, check=True, cwd=tmp_path)
    dim = Embedder.from_pretrained(device="cpu").embedding_dim
    assert f"12 images -> embeddings (12, {dim}) float32 of osnet_light" in drawn.stdout
    np.testing.assert_array_equal(table(drawn.stdout), table(named.stdout))  # assets/ holds what it draws
    np.testing.assert_array_equal(np.diag(table(drawn.stdout)), 1.0)
    assert len(answers(drawn.stdout)) == 12
    assert not list(tmp_path.iterdir())
