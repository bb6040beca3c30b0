"""The commands train and recipes, on a tiny network and drawn people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny_training import write_tiny_training

from modelscope_reid import Embedder
from modelscope_reid.cli import main
from modelscope_reid.training import training_run
from modelscope_reid.training.recipe_files import recipe_names

MODULE = [sys.executable, "-m", "modelscope_reid"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.yaml and data, and in run a finished run."""
    folder = tmp_path_factory.mktemp("training")
    recipe, root = write_tiny_training(folder)
    changes = ["--data.root", str(root), "--images.losses.margin", "0.3", "--seed", "5"]
    assert main(["train", str(recipe), "--output", str(folder / "run"), "--device", "cpu", *changes]) == 0
    return folder


def test_a_run_ends_in_a_model_that_opens_and_says_how_good_it_is(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main(["train", str(place / "tiny.yaml"), "--output", str(output), "--data.root", str(place / "data")]) == 0
    text = capsys.readouterr()
    assert text.out.startswith(f"{output}/model: trained\n") and "mAP " in text.out and "Rank-1 " in text.out
    assert Embedder.from_pretrained(output / "model").embedding_dim == 20
    report = json.loads((output / "report" / "report.json").read_text())
    assert report, "the evaluation is kept"


def test_overrides_reach_the_recipe_of_the_run_and_nothing_else_changes(place: Path) -> None:
    told = yaml.safe_load((place / "tiny.yaml").read_text())
    effective = yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    assert effective["data"]["root"] == str(place / "data")
    assert effective["images"]["losses"]["margin"] == 0.3 and effective["seed"] == 5
    assert effective["images"]["epochs"] == told["images"]["epochs"]
    assert effective["images"]["batch"]["people"] == told["images"]["batch"]["people"]
    assert effective["model"]["channels"] == told["model"]["channels"]


def test_model_is_short_for_model_weights(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = str(place / "run" / "model"), tmp_path / "tuned"
    common = ["train", str(place / "tiny.yaml"), "--output", str(output), "--data.root", str(place / "data")]
    assert main([*common, "--model", model, "--device", "cpu", "--evaluation.report", "false"]) == 0
    effective = yaml.safe_load((output / "recipe.yaml").read_text())
    assert effective["model"]["weights"] == model and effective["evaluation"]["report"] is False
    assert not (output / "report").exists()
    capsys.readouterr()
    assert main([*common, "--model", model, "--model.weights", "other"]) == 1
    assert capsys.readouterr().err == f"error: --model is {model}, and --model.weights other; give one of them.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a recipe (modelscope-reid recipes lists them) is not given; expected RECIPE --output RUN"),
        (["{tiny}"], "--output, the folder of the run, is not given; expected RECIPE --output RUN, or --resume RUN."),
        (["{tiny}", "--output", "{new}"], "data.root is not given; name the folder of the dataset with --data.root."),
        (["{tiny}", "--output", "{new}", "--data.root", "{new}"], "error: "),
        (["{tiny}", "--output", "{run}", "--data.root", "{data}"], "holds a run already; go on with --resume {run}"),
        (["osnet_ligth", "--output", "{new}"], "'osnet_ligth' is no recipe and no file; did you mean 'osnet_light'?"),
        (["{tiny}", "--output", "{new}", "--images.epochs", "0"], "epochs is 0; expected 1 or more."),
        (["--resume", "{new}"], "{new} holds no run to resume"),
        (["--resume", "{run}", "--output", "{new}"], "goes on in its own folder, and --output is {new}"),
        (["--resume", "{run}", "--images.epochs", "9"], "images.epochs was given, and a resumed run keeps its recipe"),
        (["{tiny}", "--resume", "{run}"], "seed is 0 in the recipe that was named, and 5 in that of the run"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    place: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"tiny": place / "tiny.yaml", "data": place / "data", "run": place / "run", "new": tmp_path / "new"}
    assert main(["train", *(argument.format(**names) for argument in arguments)]) == 1
    text = capsys.readouterr()
    assert text.out == "" and text.err.startswith("error: ") and text.err.count("\n") == 1
    assert message.format(**names) in text.err
    assert not (tmp_path / "new").exists()


def test_a_misspelt_option_is_status_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["train", str(place / "tiny.yaml"), "--output", "x", "--image.epochs", "3"])
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: --image.epochs is no option of modelscope-reid train; did you mean '--images.epochs'?"


def test_a_finished_run_is_resumed_by_its_folder_or_by_the_command_it_was_started_with(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = str(place / "run"), Embedder.from_pretrained(place / "run" / "model", device="cpu").fingerprint
    same = [str(place / "tiny.yaml"), "--output", run, "--images.losses.margin", "0.3", "--seed", "5"]
    for arguments in ([], ["--data.root", str(place / "data")], same):
        assert main(["train", *arguments, "--resume", run, "--device", "cpu"]) == 0
        assert capsys.readouterr().out.startswith(f"{run}/model: trained\n")
        assert Embedder.from_pretrained(place / "run" / "model", device="cpu").fingerprint == before


def test_only_the_first_process_prints(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = training_run.TrainingResult(place / "run", place / "run" / "model", None)
    monkeypatch.setattr(training_run, "train", lambda *_, **__: result)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("1", ""), ("0", f"{place}/run/model: trained\n")):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", "osnet_light", "--output", "x"]) == 0
        assert capsys.readouterr().out == expected


@pytest.mark.parametrize("started", [True, False])
def test_an_interrupt_is_status_130_and_says_how_to_go_on_where_there_is_a_run(
    place: Path, started: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = place / ("run" if started else "nothing")
    monkeypatch.setattr(training_run, "train", interrupted)
    assert main(["train", "osnet_light", "--output", str(folder)]) == 130
    hint = f"; to go on: modelscope-reid train --resume {folder}" if started else ""
    assert capsys.readouterr().err == f"interrupted{hint}\n"


@pytest.mark.slow
def test_control_c_in_the_middle_of_an_epoch_and_on_from_there(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--output", str(run), "--data.root", str(place / "data"), "--device", "cpu"]
    long = ["--images.epochs", "1000", "--evaluation.report", "false"]
    command = [*MODULE, "train", str(place / "tiny.yaml"), *arguments, *long]
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # whatever started the tests
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **listening) as process:
        deadline = time.monotonic() + 90
        while not list(run.glob("checkpoints/*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[-1] == f"interrupted; to go on: modelscope-reid train --resume {run}"


@pytest.mark.slow
def test_two_processes_print_one_summary(place: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "modelscope_reid", "train"]
    options = ["--output", str(tmp_path / "run"), "--data.root", str(place / "data"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, str(place / "tiny.yaml"), *options], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: trained") == 1


def test_recipes_lists_every_recipe_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    names = [line.partition(":")[0] for line in text.splitlines() if not line.startswith(" ")]
    assert names == recipe_names() and "osnet_light" in names
    assert max(map(len, text.splitlines())) <= 100
    assert main(["recipes", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert list(described) == names and all(described.values())
