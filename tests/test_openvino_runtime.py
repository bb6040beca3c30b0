"""OpenVINO's runtime: precisions, threads, its cache of compiled networks, and one clear error for each fault."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from layouts import assert_same, batch_for
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.runtimes.caches import recall
from modelscope_reid.runtimes.graphs import to_openvino
from modelscope_reid.runtimes.openvino_runtime import OpenVinoRuntime
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

CONFIG = TINY_CONFIGS["transreid_vit"]
MODEL = tiny_model(CONFIG)
GIVEN = {"config": CONFIG, "fingerprint": "f", "threads": 1}


@pytest.fixture(scope="module")
def graph() -> openvino.Model:
    return to_openvino(MODEL)


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    able = ["FP32"]
    real = openvino.Core.get_property

    def answer(core: openvino.Core, device: str, name: str) -> object:
        return able if name == "OPTIMIZATION_CAPABILITIES" else real(core, device, name)

    monkeypatch.setattr(openvino.Core, "get_property", answer)
    return able


def test_bf16_is_near_and_not_the_same(graph: openvino.Model) -> None:
    runtime = OpenVinoRuntime(graph, precision="bf16", **GIVEN)
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    batch = batch_for(CONFIG, 5)
    actual, expected = runtime.run(*batch), TorchRuntime(MODEL, "cpu").run(*batch)
    cosine = (actual * expected).sum(1) / np.linalg.norm(actual, axis=1) / np.linalg.norm(expected, axis=1)
    assert runtime.precision == "bf16" and runtime.name == "openvino on cpu" and runtime.fingerprint == "f"
    assert cosine.min() > 0.999 and np.abs(actual - expected).max() > 1e-4


def test_bf16_falls_back_where_the_processor_lacks_it(
    graph: openvino.Model, capabilities: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        runtime = OpenVinoRuntime(graph, precision="bf16", **GIVEN)
    assert runtime.precision == "fp32" and "no bfloat16 instructions" in caplog.text
    batch = batch_for(CONFIG, 2)
    assert_same(runtime.run(*batch), TorchRuntime(MODEL, "cpu").run(*batch))
    with pytest.raises(InputError, match="'fp16' is for GPUs"):
        OpenVinoRuntime(graph, precision="fp16", **GIVEN)


def test_several_threads_get_their_own_answers(graph: openvino.Model) -> None:
    runtime = OpenVinoRuntime(graph, **GIVEN)
    images, camera_ids = batch_for(CONFIG, 24)
    assert camera_ids is not None
    expected = runtime.run(images, camera_ids)
    with ThreadPoolExecutor(4) as pool:
        rows = pool.map(lambda row: runtime.run(images[row : row + 1], camera_ids[row : row + 1]), range(24))
    np.testing.assert_allclose(np.concatenate(list(rows)), expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_network_is_kept_and_a_damaged_one_made_again(graph: openvino.Model, tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> openvino.Model:
        made.append(1)
        return graph

    batch = batch_for(CONFIG, 3)
    expected = OpenVinoRuntime(make, cache=tmp_path, **GIVEN).run(*batch)
    (blob,) = tmp_path.iterdir()
    assert np.array_equal(OpenVinoRuntime(make, cache=tmp_path, **GIVEN).run(*batch), expected) and len(made) == 1
    blob.write_bytes(blob.read_bytes()[:-9])
    assert np.array_equal(OpenVinoRuntime(make, cache=tmp_path, **GIVEN).run(*batch), expected) and len(made) == 2
    assert recall(blob) is not None
    OpenVinoRuntime(make, cache=tmp_path, **{**GIVEN, "fingerprint": "another"})
    assert len(made) == 3 and len(list(tmp_path.iterdir())) == 2


def test_a_file_that_changes_is_not_taken_from_the_cache(graph: openvino.Model, tmp_path: Path) -> None:
    file, cache, batch = tmp_path / "model.xml", tmp_path / "cache", batch_for(CONFIG, 3)
    openvino.save_model(graph, file, compress_to_fp16=False)
    first = OpenVinoRuntime(file, cache=cache, **GIVEN).run(*batch)
    openvino.save_model(to_openvino(tiny_model(CONFIG, seed=5)), file, compress_to_fp16=False)
    second = OpenVinoRuntime(file, cache=cache, **GIVEN).run(*batch)
    assert_same(first, TorchRuntime(MODEL, "cpu").run(*batch))
    assert_same(second, TorchRuntime(tiny_model(CONFIG, seed=5), "cpu").run(*batch))


@pytest.mark.parametrize("damage", ["text", "empty", "half", "no weights", "half of the weights"])
def test_a_damaged_file_is_one_clear_error(graph: openvino.Model, damage: str, tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    openvino.save_model(graph, file)
    xml, weights = file.read_bytes(), file.with_suffix(".bin").read_bytes()
    if damage == "no weights":
        file.with_suffix(".bin").unlink()
    elif damage == "half of the weights":
        file.with_suffix(".bin").write_bytes(weights[: len(weights) // 2])
    else:
        file.write_bytes({"text": b"hello", "empty": b"", "half": xml[: len(xml) // 2]}[damage])
    with pytest.raises(CheckpointError, match=r"model\.xml cannot be compiled by OpenVINO: .+; export the model again"):
        OpenVinoRuntime(file, **GIVEN)


def test_a_foreign_graph_and_wrong_arguments_are_clear_errors(graph: openvino.Model) -> None:
    with pytest.raises(CheckpointError, match="expected images and embeddings: it is no export of this package"):
        OpenVinoRuntime(graph, **{**GIVEN, "config": TINY_CONFIGS["pass_vit"]})
    with pytest.raises(InputError, match="device 'cuda' is none of OpenVINO's here; expected one of CPU"):
        OpenVinoRuntime(graph, device="cuda", **GIVEN)
    with pytest.raises(InputError, match="threads is 0; expected 1 or more"):
        OpenVinoRuntime(graph, **{**GIVEN, "threads": 0})
