"""The torch runtime: same numbers as the bare model, on the host, outside autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS

from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
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
