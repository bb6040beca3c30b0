"""The command line as a person uses it: in this process where that is enough, in a fresh one where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from published import clip_reid_state
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid import Embedder, cosine_similarity, evaluate, read_dataset, save_pretrained
from modelscope_reid.cli import COMMANDS, _typed, main
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.hub import bundled_model
from modelscope_reid.models.reid_model import ReidModel

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pretrained(ReidModel.with_seed(TINY_CONFIGS["pass_vit"]), tmp_path_factory.mktemp("model")))


def test_embed_writes_one_row_per_image_in_order(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(str(path) for path in ASSETS.glob("*.png"))
    expected = Embedder.from_pretrained(model).embed(files)
    for suffix in ("npz", "parquet", "jsonl"):
        output = tmp_path / f"features.{suffix}"
        assert main(["embed", str(ASSETS), "--model", model, "--output", str(output), "--device", "cpu"]) == 0
        text = capsys.readouterr()
        assert text.out == f"{output}: 12 embeddings of 128 numbers, 0 images skipped\n"
        if suffix == "npz":
            with np.load(output) as table:
                paths, vectors = table["paths"].tolist(), table["embeddings"]
        elif suffix == "parquet":
            rows = pq.read_table(output)
            paths, vectors = rows["path"].to_pylist(), np.array(rows["embedding"].to_pylist())
        else:
            lines = [json.loads(line) for line in output.read_text().splitlines()]
            paths, vectors = [line["path"] for line in lines], np.array([line["embedding"] for line in lines])
        assert paths == files
        np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("called", "typed"),
    [
        (".venv/bin/modelscope-reid", ".venv/bin/modelscope-reid"),
        ("{path}/modelscope-reid", "modelscope-reid"),
        ("/x/modelscope_reid/__main__.py", "modelscope-reid"),
    ],
)
def test_the_program_is_named_as_it_can_be_typed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, typed: str
) -> None:
    (tmp_path / "modelscope-reid").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [called.format(path=tmp_path)])
    assert _typed() == typed


def test_embed_lists_what_it_skips_and_fails_in_its_exit_status(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes((ASSETS / "person01_camera1.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"not a picture")
    output = tmp_path / "features.npz"
    assert main(["embed", str(tmp_path), "--model", model, "--output", str(output)]) == 1
    text = capsys.readouterr()
    assert "1 embeddings of 128 numbers, 1 images skipped" in text.out
    assert text.err.startswith("skipped: ") and "b.png" in text.err
    with np.load(output) as table:
        assert table["paths"].tolist() == [str(tmp_path / "a.png")]
    output.unlink()
    assert main(["embed", str(tmp_path), "--model", model, "--output", str(output), "--on-error", "raise"]) == 1
    assert capsys.readouterr().err.startswith("error: image 1: ")
    assert not list(tmp_path.glob("*features*")), "a run that failed leaves nothing half written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "features.txt"], "ends in '.txt'; expected one of .npz, .parquet, .jsonl"),
        (["--output", "/no/such/folder/features.npz"], "folder /no/such/folder does not exist"),
        (["--output", "features.npz", "--batch-size", "0"], "batch_size is 0"),
        (
            ["--output", "features.npz", "--layout", "1536"],
            "layout was given, but models of the family pass_vit have none",
        ),
        (["--output", "features.npz", "--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_embed_says_in_one_line_what_is_wrong(
    model: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["embed", str(ASSETS), "--model", model, *arguments]) == 1
    text = capsys.readouterr()
    assert text.out == "" and message in text.err and text.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_compare_prints_the_cosine_similarity(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(ASSETS / f"person0{person}_camera1.png") for person in (1, 2))
    vectors = Embedder.from_pretrained(model).embed([a, b])
    expected = float(cosine_similarity(vectors[:1], vectors[1:])[0, 0])
    assert main(["compare", a, b, "--model", model]) == 0
    assert capsys.readouterr().out == f"{expected:.4f}\n"
    assert main(["compare", a, a, "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cosine_similarity"] == pytest.approx(1.0, abs=1e-6)


def save_clip_reid(path: Path) -> None:
    """A tiny CLIP-ReID checkpoint under its published names, one prompt among them."""
    state = clip_reid_state(tiny_model(TINY_CONFIGS["clip_vit"]))
    torch.save({**state, "prompt_learner.cls_ctx": torch.zeros(5, 4, 8)}, path)


def test_inspect_tells_what_a_checkpoint_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_clip_reid(tmp_path / "clip.pth")
    assert main(["inspect", str(tmp_path / "clip.pth")]) == 0
    text = capsys.readouterr().out
    assert "CLIP-ReID ViT" in text and "left out" in text and "the prompts and the text tower" in text
    assert main(["inspect", str(tmp_path / "clip.pth"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["config"]["family"] == "clip_vit" and report["loaded"] == len(report["renamed"]) > 20


def test_convert_writes_a_folder_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_clip_reid(tmp_path / "clip.pth")
    for options, dim in (([], 64 + 64), (["--layout", "clip-reid"], 64 + 32)):
        folder = tmp_path / f"out{dim}"
        assert main(["convert", str(tmp_path / "clip.pth"), "--output", str(folder), *options]) == 0
        assert f"written to {folder}" in capsys.readouterr().out
        assert Embedder.from_pretrained(folder).embedding_dim == dim


def test_convert_to_a_small_folder_for_embedding_alone(tmp_path: Path) -> None:
    save_clip_reid(tmp_path / "clip.pth")
    whole, small = tmp_path / "whole", tmp_path / "small"
    assert main(["convert", str(tmp_path / "clip.pth"), "--output", str(whole)]) == 0
    options = ["--dtype", "float16", "--drop-classifier"]
    assert main(["convert", str(tmp_path / "clip.pth"), "--output", str(small), *options]) == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, small)]
    assert sizes[1] < 0.55 * sizes[0]
    assert Embedder.from_pretrained(small).config.num_classes == 0
    vectors = [Embedder.from_pretrained(folder).embed(ASSETS / "person01_camera1.png") for folder in (whole, small)]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=0.02, atol=0.02)


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["embed", "x"], ["embed", "x", "--modle", "m"], ["no-such-command"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
        assert "usage: modelscope-reid" in capsys.readouterr().err


def test_every_parameter_of_every_command_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (function, positionals) in COMMANDS.items():
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        parameters = [parameter for parameter in function.__annotations__ if parameter not in ("return", "overrides")]
        for parameter in parameters:
            flag = parameter if parameter in positionals else "--" + parameter.replace("_", "-")
            assert flag in text, f"{name} {flag}"


def test_the_module_runs_and_a_closed_pipe_is_no_crash() -> None:
    run = [sys.executable, "-m", "modelscope_reid"]
    version = subprocess.run([*run, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("modelscope-reid 0.")
    closed = subprocess.run(f"{' '.join(run)} --help | head -1", shell=True, capture_output=True, text=True, check=True)
    assert "Traceback" not in closed.stderr


@pytest.mark.slow
def test_help_takes_less_than_a_second_and_the_import_less_than_a_fifth() -> None:
    """The two limits of the package, each the best of five: one noisy run proves nothing, one quick run does."""

    def best(*arguments: str) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    interpreter = best("-c", "pass")
    assert best("-c", "import modelscope_reid") - interpreter < 0.2
    assert best("-m", "modelscope_reid", "--help") < 1.0


def test_pictures_that_pillow_made_up_are_found_in_folders(tmp_path: Path) -> None:
    from modelscope_reid.datasets.image_files import find_images

    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "deep" / "er" / "x.JPG", "JPEG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert find_images([str(tmp_path), "https://host/y"]) == [str(tmp_path / "deep" / "er" / "x.JPG"), "https://host/y"]


def test_without_a_model_the_packages_own_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(ASSETS / f"person0{person}_camera1.png") for person in (1, 2))
    vectors = Embedder.from_pretrained(bundled_model(), device="cpu").embed([a, b])
    assert main(["compare", a, b, "--device", "cpu"]) == 0
    similarity = float(cosine_similarity(vectors[:1], vectors[1:])[0, 0])
    assert capsys.readouterr().out.startswith(f"{similarity:.4f}")
    output = tmp_path / "features.npz"
    assert main(["embed", a, b, "--output", str(output), "--device", "cpu"]) == 0
    assert f"2 embeddings of {vectors.shape[1]} numbers" in capsys.readouterr().out
    with np.load(output) as table:
        np.testing.assert_allclose(table["embeddings"], vectors, rtol=1e-5, atol=1e-6)
    root = write_synthetic_market(tmp_path / "data", people=4, cameras=2, train_people=1, size=(64, 32))
    assert main(["evaluate", "--root", str(root), "--device", "cpu", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = evaluate(Embedder.from_pretrained(device="cpu"), read_dataset("market1501", root)).ranking.figures()
    assert figures["mAP"] == pytest.approx(expected["mAP"], abs=1e-6)


def test_evaluate_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 1
    error = "error: nothing to evaluate: give --root, the folder of the dataset, or --features.\n"
    assert capsys.readouterr().err == error
    assert main(["evaluate", "--calibrate", "--root", "x"]) == 1  # never into the package's own folder
    assert "--calibrate writes into a model folder, and --model is None" in capsys.readouterr().err


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise() -> None:
    code = "from modelscope_reid.cli import main; main(['recipes', '--json']); import os; print(os.environ[{!r}])"
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"):
        command = [sys.executable, "-c", code.format("OMP_WAIT_POLICY")]
        result = subprocess.run(command, env={**plain, **given}, capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == expected
