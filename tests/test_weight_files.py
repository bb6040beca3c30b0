"""Every container that weights come in, opened; broken and hostile ones refused without running anything."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchscript_modules
from safetensors.torch import save_file
from torch import Tensor, nn

from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.weight_files import find_weights, read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


SAVERS: dict[str, Callable[[Any, Path], object]] = {
    "zip": torch.save,
    "legacy": legacy,
    "safetensors": lambda content, path: save_file(content, path),
}


def assert_same(given: Any, expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


@pytest.mark.parametrize("saver", SAVERS.values(), ids=SAVERS.keys())
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x"])
def test_format_is_told_by_content_not_by_suffix(
    saver: Callable[[Any, Path], object], name: str, tmp_path: Path
) -> None:
    saver(STATE, tmp_path / name)
    file = read_weights(tmp_path / name)
    assert_same(file.tensors, STATE)
    assert file.unwrapped == ()


@pytest.mark.parametrize(
    ("content", "unwrapped"),
    [
        ({"state_dict": STATE, "epoch": 3}, ("state_dict",)),
        ({"model": STATE, "optimizer": {"state": {}}}, ("model",)),
        ({"teacher": STATE, "student": {}}, ("teacher",)),
        ({"model": {"state_dict": STATE}}, ("model", "state_dict")),
        ({"state_dict": STATE, "best_mAP": torch.tensor(0.9)}, ("state_dict",)),
        ({f"module.{name}": tensor for name, tensor in STATE.items()}, ("module.",)),
        ({f"model.{name}": tensor for name, tensor in STATE.items()}, ("model.",)),
        ({"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}}, ("state_dict", "module.")),
        ({f"_orig_mod.module.{name}": tensor for name, tensor in STATE.items()}, ("_orig_mod.", "module.")),
        ({f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}, ("module.", "_orig_mod.")),
        ({f"model._orig_mod.{name}": tensor for name, tensor in STATE.items()}, ("_orig_mod.", "model.")),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_wrappers_are_taken_off_and_said(content: Any, unwrapped: tuple[str, ...], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    file = read_weights(tmp_path / "x.pt")
    assert_same(file.tensors, STATE)
    assert sorted(file.unwrapped) == sorted(unwrapped)


def test_two_models_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    torch.save({"model.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"holds both 'a' and 'model\.a'"):
        read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("saver", [torch.save, legacy])
def test_plain_data_beside_the_weights_is_allowed(saver: Callable[[Any, Path], object], tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, name="vit_small"),  # DINO
        "rank1": np.float64(0.942),  # torchreid
        "epoch": np.int64(60),
        "curve": np.zeros(3),
    }
    saver({"state_dict": STATE, **beside}, tmp_path / "x.pt")
    assert_same(read_weights(tmp_path / "x.pt").tensors, STATE)


def test_half_precision_is_left_as_it_is(tmp_path: Path) -> None:
    half = {"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16()}
    torch.save(half, tmp_path / "x.pt")
    assert {name: t.dtype for name, t in read_weights(tmp_path / "x.pt").tensors.items()} == {
        "a": torch.float16,
        "b": torch.bfloat16,
    }


class RunsCode:
    """Unpickled freely, this makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("saver", [torch.save, legacy])
@pytest.mark.parametrize("place", ["beside", "inside", "alone"])
def test_code_in_a_pickle_does_not_run(saver: Callable[[Any, Path], object], place: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "x.pt"
    content: Any = {
        "beside": {"state_dict": STATE, "hook": RunsCode(trace)},
        "inside": {"state_dict": {**STATE, "c": RunsCode(trace)}},
        "alone": RunsCode(trace),
    }[place]
    saver(content, path)
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(\w+\.system\).*convert it once: "):
        read_weights(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, so this test shows nothing"


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(RunsCode(trace)))
    with pytest.raises(CheckpointError):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compile_module", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(3))])
def test_torchscript_archive_gives_its_tensors(compile_module: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    compile_module(torchscript_modules.Plain()).save(str(tmp_path / "x.pt"))
    assert_same(read_weights(tmp_path / "x.pt").tensors, {"weight": torch.arange(3.0), "count": torch.tensor(7)})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("disguise", [b"def __setstate__(", b"def  __setstate__ (", b"def\t__setstate__("])
def test_torchscript_that_runs_code_is_not_opened(disguise: bytes, tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "x.pt"
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torchscript_modules.RunsCode(str(trace))), buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry).replace(b"def __setstate__(", disguise))
    with pytest.raises(CheckpointError, match="TorchScript archive that runs code of its own"):
        read_weights(path)
    assert not trace.exists()
    torch.jit.load(str(path))
    assert trace.exists(), "the archive is harmless, so this test shows nothing"


def _torchscript(path: Path) -> None:
    torch.jit.script(torchscript_modules.Plain()).save(str(path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*SAVERS, "torchscript"])
def test_truncated_file_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    _torchscript(path) if kind == "torchscript" else SAVERS[kind](STATE, path)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), 1, 8, 9, 16, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            read_weights(path)
    path.write_bytes(whole)
    assert len(read_weights(path).tensors) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*SAVERS, "torchscript"])
def test_changed_bytes_never_give_another_error(kind: str, tmp_path: Path) -> None:
    path, dice = tmp_path / "x.pt", random.Random(0)
    _torchscript(path) if kind == "torchscript" else SAVERS[kind](STATE, path)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        changed = bytearray(whole)
        changed[dice.randrange(len(whole))] = dice.randrange(256)
        path.write_bytes(changed)
        try:
            read_weights(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"model weights go here, said the README\n" * 9, "PyTorch can open|no intact file"),
        (b"PK\x03\x04 not a zip at all", "damaged archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "PyTorch can open|no intact file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "no intact safetensors"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pt.*({message})"):
        read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([1, 2], "a list"),
        ({}, "a dict with nothing"),
        ({"epoch": 3, "lr": 0.1}, "a dict with epoch, lr"),
        (STATE["b"], "a Tensor"),
    ],
)
def test_files_without_named_tensors_say_what_they_hold(content: Any, kind: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=f"holds {kind}; expected a state dict"):
        read_weights(tmp_path / "x.pt")


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_weights(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["model.safetensors", "pytorch_model.pt", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.pt", "pytorch_model.bin", "best.pth"], "pytorch_model.pt"),
        (["pytorch_model.bin", "notes.txt"], "pytorch_model.bin"),
        (["ViT-B-16_60.pth", "README.md"], "ViT-B-16_60.pth"),
    ],
)
def test_weights_of_a_folder(files: list[str], found: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert find_weights(tmp_path) == tmp_path / found


def test_folder_without_weights_or_with_a_choice(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no weights; expected one of model\.safetensors"):
        find_weights(tmp_path)
    for name in ("b.pth", "a.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"holds a\.ckpt, b\.pth; expected one of"):
        find_weights(tmp_path)
