"""The torch runtime: same numbers as the bare model, on the host, outside autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layouts import assert_same, batch_for
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import torch_runtime
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

CONFIG = TINY_CONFIGS["pass_vit"]


def test_runs_the_model_in_eval_mode_and_returns_host_arrays() -> None:
    model = ReidModel.with_seed(CONFIG).train()
    runtime = TorchRuntime(model, "cpu")
    images = np.random.default_rng(0).standard_normal((3, 3, *CONFIG.image_size)).astype(np.float32)
    result = runtime.run(images)
    assert not model.training and runtime.name == "torch on cpu"
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(result, model(torch.from_numpy(images)), rtol=1e-4, atol=1e-5)


def test_the_default_device_is_the_gpu_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert TorchRuntime(ReidModel.with_seed(CONFIG)).device.type == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(InputError, match=r"device 'cuda' cannot be used here.*use 'cpu'"):
        TorchRuntime(ReidModel.with_seed(CONFIG), "cuda")


def test_a_large_batch_goes_through_the_cpu_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(TINY_CONFIGS["transreid_vit"])
    images, cameras = batch_for(model.config, 7)
    whole = TorchRuntime(model, "cpu").run(images, cameras)
    height, width = model.config.preprocessing.image_size
    monkeypatch.setattr(torch_runtime, "CPU_PIXELS", 3 * height * width + 1)
    runtime, sizes = TorchRuntime(model, "cpu"), []
    runtime._run.register_forward_pre_hook(lambda module, inputs: sizes.append([len(one) for one in inputs]))
    assert_same(runtime.run(images, cameras), whole)
    assert sizes == [[3, 3], [3, 3], [1, 1]]
    assert runtime.run(images[:0], cameras[:0]).shape == (0, whole.shape[1])


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_bf16_is_near_and_leaves_the_model_in_float32(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "cpu_has_bf16", lambda: True)  # without the instructions torch emulates them
    model = tiny_model(TINY_CONFIGS[family])
    batch = batch_for(model.config, 5)
    plain, runtime = TorchRuntime(model, "cpu"), TorchRuntime(model, "cpu", precision="bf16")
    actual, expected = runtime.run(*batch), plain.run(*batch)
    cosine = (actual * expected).sum(1) / np.linalg.norm(actual, axis=1) / np.linalg.norm(expected, axis=1)
    assert runtime.precision == "bf16" and runtime.fingerprint == plain.fingerprint
    assert cosine.min() > 0.999 and actual.dtype == np.float32 and np.abs(actual - expected).max() > 1e-4
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_bf16_falls_back_where_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch_runtime, "cpu_has_bf16", lambda: False)
    runtime = TorchRuntime(ReidModel.with_seed(CONFIG), "cpu", precision="bf16")
    assert runtime.precision == "fp32" and "no bfloat16 instructions; computing in float32" in caplog.text


def test_precisions_that_a_cpu_does_not_have_are_clear_errors() -> None:
    with pytest.raises(InputError, match="'fp16' is for GPUs; on a CPU use 'bf16', or 'fp32'"):
        TorchRuntime(ReidModel.with_seed(CONFIG), "cpu", precision="fp16")
    with pytest.raises(InputError, match="'int8' needs crops to calibrate with"):
        TorchRuntime(ReidModel.with_seed(CONFIG), "cpu", precision="int8")


def test_threads_are_those_asked_for_and_no_more_than_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        TorchRuntime(ReidModel.with_seed(CONFIG), "cpu", threads=3)
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(torch_runtime, "default_threads", lambda: None)
        TorchRuntime(ReidModel.with_seed(CONFIG), "cpu")
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(torch_runtime, "default_threads", lambda: 2)
        TorchRuntime(ReidModel.with_seed(CONFIG), "cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["osnet", "clip_resnet"])
def test_a_model_that_goes_on_training_keeps_its_tensors(family: str) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    before = {name: (tensor.data_ptr(), tensor.stride()) for name, tensor in model.named_parameters()}
    TorchRuntime(model, "cpu")
    assert {name: (tensor.data_ptr(), tensor.stride()) for name, tensor in model.named_parameters()} == before
    assert all(tensor.requires_grad for tensor in model.parameters())


@pytest.mark.slow
def test_the_compiled_network_gives_the_same_embeddings() -> None:
    model = tiny_model(TINY_CONFIGS["transreid_vit"])
    compiled, plain = TorchRuntime(model, "cpu", compiled=True), TorchRuntime(model, "cpu")
    assert compiled.name == "torch (compiled) on cpu"
    for count in (2, 5):
        batch = batch_for(model.config, count)
        assert_same(compiled.run(*batch), plain.run(*batch))
