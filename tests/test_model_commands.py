"""The commands on models, as a person types them: export, and inspect on what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_exports import crops_folder, exported, model_folder

from modelscope_reid.cli import main
from modelscope_reid.runtimes.exported_folder import read_export


def test_export_prints_the_report_and_writes_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "export"
    arguments = ["export", "--model", str(model_folder("pass_vit")), "--output", str(folder), "--precision", "fp16"]
    assert main([*arguments, "--format", "onnx", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("onnx fp16, computed in fp32 here, beside PyTorch fp32 on 32 crops (drawn people):")
    assert printed.endswith(f"written to {folder}\n")
    info = read_export(folder)
    assert info is not None and str(info.parity) in printed


def test_int8_prints_one_json_object_and_nothing_else(tmp_path: Path) -> None:
    arguments = ["--model", str(model_folder("pass_vit")), "--precision", "int8", "--calibration", str(crops_folder())]
    command = [
        sys.executable,
        "-m",
        "modelscope_reid",
        "export",
        *arguments,
        "--output",
        str(tmp_path / "new"),
        "--json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["precision"], report["crops"], report["cosines"]["count"]) == ("int8", "held out of crops", 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "market1501"], "--dataset and --root go together"),
        (["--precision", "int8"], "int8 needs crops to calibrate with"),
        (["--format", "onnx", "--precision", "bf16"], "ONNX Runtime has no bf16 on a CPU"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--output", str(tmp_path / "new"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_inspect_says_what_an_export_is(capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported("pass_vit", "openvino")
    assert main(["inspect", str(folder)]) == 0
    assert "openvino fp32, beside PyTorch fp32" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp32"


def test_inspect_and_convert_still_take_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_folder("pass_vit"))]) == 0
    assert main(["convert", str(model_folder("pass_vit")), "--output", str(tmp_path / "copy")]) == 0
    assert f"written to {tmp_path / 'copy'}" in capsys.readouterr().out
    assert (tmp_path / "copy" / "model.safetensors").is_file()
