"""The choice of an engine: the fastest of those that are exact, remembered, overridden, and never a wrong one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import Precision, choice
from modelscope_reid.runtimes.choice import RUNTIME_VARIABLE, open_runtime
from modelscope_reid.runtimes.torch_runtime import TorchRuntime, fingerprint_of

MODEL = tiny_model(TINY_CONFIGS["transreid_vit"])


class Engine:
    """PyTorch's embeddings plus an error, under another name."""

    def __init__(self, network: ReidModel, name: str, error: float, precision: Precision) -> None:
        self.name, self.error, self.precision = f"{name} on cpu", error, precision
        self.plain = TorchRuntime(network, "cpu")
        self.fingerprint = self.plain.fingerprint

    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        embeddings = self.plain.run(images, camera_ids)
        return embeddings + self.error * np.abs(embeddings).max() * np.resize([1, -1], embeddings.shape)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Replace OpenVINO and ONNX Runtime by stand-ins of a given error and time; return what is opened, by name."""

    def replace(errors: dict[str, float], times: dict[str, float], precision: Precision = "fp32") -> list[str]:
        opened: list[str] = []

        def opener(name: str) -> Callable[[object], Engine]:
            def open_engine(wish: choice._Wish) -> Engine:
                opened.append(name)
                return Engine(wish.network, name, errors[name], precision)

            return open_engine

        monkeypatch.setattr(choice, "OPENERS", {**choice.OPENERS, **{name: opener(name) for name in errors}})
        monkeypatch.setattr(choice, "LIBRARIES", {"torch": (), **dict.fromkeys(errors, ())})
        monkeypatch.setattr(choice, "_milliseconds", lambda runtime, *batch: times[runtime.name.split()[0]])
        return opened

    monkeypatch.setenv(RUNTIME_VARIABLE, "auto")
    monkeypatch.setenv("MODELSCOPE_REID_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "version", lambda library: "1")
    monkeypatch.setattr(choice.torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    yield replace
    torch.set_num_threads(threads)


def test_the_fastest_exact_engine_is_taken_and_remembered(
    engines: Callable[..., list[str]], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    opened = engines({"openvino": 0.0, "onnxruntime": 1e-3}, {"torch": 3.0, "openvino": 2.0, "onnxruntime": 1.0})
    with caplog.at_level(logging.INFO):
        assert open_runtime(MODEL).name == "openvino on cpu"
    assert "onnxruntime on cpu in fp32 is left out: its embeddings differ from PyTorch's by 0.001" in caplog.text
    assert "openvino: the fastest here, in ms per image of a batch of 8: torch 3.0, openvino 2.0" in caplog.text
    assert opened == ["openvino", "onnxruntime"]
    assert open_runtime(MODEL).name == "openvino on cpu" and opened[2:] == ["openvino"]  # not measured again
    open_runtime(tiny_model(TINY_CONFIGS["pass_vit"]))
    open_runtime(MODEL, threads=3)
    assert len(list((tmp_path / "choices").iterdir())) == 3  # another config, other threads: measured by themselves


@pytest.mark.parametrize("damage", [b"", b"{", b"x" * 90])
def test_a_damaged_memory_is_ignored_and_written_again(
    damage: bytes, engines: Callable[..., list[str]], tmp_path: Path
) -> None:
    opened = engines({"openvino": 0.0}, {"torch": 3.0, "openvino": 2.0})
    open_runtime(MODEL)
    (file,) = (tmp_path / "choices").iterdir()
    sound = file.read_bytes()
    file.write_bytes(damage)
    assert open_runtime(MODEL).name == "openvino on cpu" and file.read_bytes() == sound
    assert len(opened) == 2


def test_an_engine_that_fails_or_gives_nan_is_left_out(
    engines: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines({"openvino": np.nan, "onnxruntime": 0.0}, {"torch": 3.0, "openvino": 2.0, "onnxruntime": 1.0})

    def fail(wish: object) -> None:
        raise CheckpointError("no")

    monkeypatch.setitem(choice.OPENERS, "onnxruntime", fail)
    assert open_runtime(MODEL).name == "torch on cpu"


def test_without_another_engine_nothing_is_measured(engines: Callable[..., list[str]], tmp_path: Path) -> None:
    engines({}, {})
    assert open_runtime(MODEL).name == "torch on cpu" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "expected"), [(1e-3, "openvino on cpu"), (0.5, "torch on cpu")])
def test_bf16_takes_an_engine_that_computes_in_it_and_is_near(
    error: float, expected: str, engines: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines({"openvino": error}, {"torch": 1.0, "openvino": 2.0}, precision="bf16")
    monkeypatch.setitem(choice.OPENERS, "torch", lambda wish: Engine(MODEL, "torch", 0.0, "fp32"))  # as it falls back
    assert open_runtime(MODEL, precision="bf16").name == expected


def test_the_environment_names_the_engine(engines: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    engines({"openvino": 0.0}, {"torch": 3.0, "openvino": 2.0})
    monkeypatch.setenv(RUNTIME_VARIABLE, "torch")
    assert open_runtime(MODEL).name == "torch on cpu"
    assert open_runtime(MODEL, runtime="openvino").name == "openvino on cpu"
    monkeypatch.setenv(RUNTIME_VARIABLE, "tensorflow")
    with pytest.raises(
        InputError, match="MODELSCOPE_REID_RUNTIME is 'tensorflow'; expected one of auto, torch, openvino"
    ):
        open_runtime(MODEL)


def test_what_cannot_be_had_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="runtime is 'fast'; expected one of auto, torch, openvino, onnxruntime"):
        open_runtime(MODEL, runtime="fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision is 'fp8'; expected one of fp32, bf16, fp16, int8"):
        open_runtime(MODEL, precision="fp8")  # type: ignore[arg-type]
    for runtime in ("auto", "torch", "openvino"):
        with pytest.raises(InputError, match=r"int8.*run `modelscope-reid export --precision int8 --calibration"):
            open_runtime(MODEL, runtime=runtime, precision="int8")
    with pytest.raises(InputError, match="threads is 0"):
        open_runtime(MODEL, runtime="torch", threads=0)


def test_real_engines_are_opened_by_name_and_share_the_fingerprint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELSCOPE_REID_CACHE", str(tmp_path))
    names: list[str] = []
    for runtime in (None, "openvino", "onnxruntime", "openvino", "onnxruntime"):  # the last two from the cache
        opened = open_runtime(MODEL, runtime=runtime or "torch", device="cpu")
        names.append(opened.name)
        assert opened.fingerprint == fingerprint_of(MODEL) and opened.precision == "fp32"
    assert names == ["torch on cpu", *["openvino on cpu", "onnxruntime on cpu"] * 2]
    assert {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir()} == {"openvino": 1, "onnx": 1}
    monkeypatch.setenv(RUNTIME_VARIABLE, "auto")
    assert open_runtime(MODEL, device="cpu").fingerprint == fingerprint_of(MODEL)
    assert len(list((tmp_path / "choices").iterdir())) == 1
