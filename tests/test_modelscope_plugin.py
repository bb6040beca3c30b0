"""ModelScope's face, through ModelScope's own `pipeline` and `Model`, in fresh processes where registration matters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, HubError, ReidModel, save_pretrained
from modelscope_reid.config import PassVitConfig, Preprocessing

pytest.importorskip("modelscope")

ROOT = Path(__file__).parents[1]
CROPS = sorted(str(path) for path in (ROOT / "assets").glob("*.png"))
TINY = TINY_CONFIGS["pass_vit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pretrained(ReidModel.with_seed(TINY), tmp_path_factory.mktemp("own")))


@pytest.fixture(scope="module")
def reid(folder: str) -> Any:
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    return pipeline(Tasks.image_reid_person, model=folder, device="cpu")


def test_one_image_gives_one_row_as_the_model_card_shows(reid: Any, folder: str) -> None:
    from modelscope.outputs import OutputKeys

    output = reid(CROPS[0])
    vector = output[OutputKeys.IMG_EMBEDDING]
    assert list(output) == ["img_embedding"] and vector.shape == (1, 128) and vector.dtype == np.float32
    np.testing.assert_allclose(vector, Embedder.from_pretrained(folder, device="cpu").embed(CROPS[0]), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"batch_size": 32}])
def test_a_list_gives_a_list_truly_batched(reid: Any, options: dict[str, int]) -> None:
    runs: list[int] = []
    run = reid.embedder.runtime.run
    try:
        reid.embedder.runtime.run = lambda images, cameras=None: runs.append(len(images)) or run(images, cameras)
        outputs = reid(CROPS[:5], **options)
    finally:
        reid.embedder.runtime.run = run
    assert runs == ([2, 2, 1] if options.get("batch_size") == 2 else [5])
    assert [output["img_embedding"].shape for output in outputs] == [(1, 128)] * 5
    alone = np.concatenate([reid(crop)["img_embedding"] for crop in CROPS[:5]])
    together = np.concatenate([output["img_embedding"] for output in outputs])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_inputs_that_stock_refuses_or_mangles(reid: Any) -> None:
    image = Image.open(CROPS[0])
    rgb = np.asarray(image.convert("RGB"))
    expected = reid(CROPS[0])["img_embedding"]
    grey = np.asarray(image.convert("L"))
    inputs = {
        "PIL": image,
        "BGR array, as ModelScope has it": rgb[:, :, ::-1].copy(),
        "bytes": Path(CROPS[0]).read_bytes(),
        "Path": Path(CROPS[0]),
        "floats 0..1": rgb[:, :, ::-1] / 255.0,
        "RGBA": np.dstack([rgb[:, :, ::-1], np.full(rgb.shape[:2], 7, np.uint8)]),
    }
    for name, given in inputs.items():
        np.testing.assert_allclose(reid(given)["img_embedding"], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(reid(grey)["img_embedding"], reid(image.convert("L"))["img_embedding"], rtol=1e-5)


def test_tuples_iterators_arrays_dicts_and_datasets(reid: Any) -> None:
    from datasets import Dataset
    from modelscope.msdatasets import MsDataset

    expected = [output["img_embedding"] for output in reid(CROPS[:3])]
    bgr = np.stack([np.asarray(Image.open(crop))[:, :, ::-1] for crop in CROPS[:3]])
    hosted = MsDataset.to_ms_dataset(Dataset.from_dict({"image": CROPS[:3]}))
    assert isinstance(hosted, MsDataset)
    many = {"a tuple": tuple(CROPS[:3]), "an iterator": iter(CROPS[:3]), "a 4-D array": bgr, "a dataset": hosted}
    for name, given in many.items():
        outputs = list(reid(given))
        assert len(outputs) == 3, name
        np.testing.assert_allclose(
            [output["img_embedding"] for output in outputs], expected, rtol=1e-4, atol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(reid({"image": CROPS[0]})["img_embedding"], expected[0], rtol=1e-4, atol=1e-5)
    assert reid([]) == []


def test_an_option_that_does_not_exist_is_refused(reid: Any) -> None:
    with pytest.raises(TypeError, match="batchsize"):
        reid(CROPS[:2], batchsize=2)


def test_a_bad_image_in_a_list_is_named(reid: Any) -> None:
    with pytest.raises(ValueError, match=r"image 1: .*missing\.jpg"):
        reid([CROPS[0], "missing.jpg"])


def test_modelscopes_model_class_opens_the_folder(folder: str) -> None:
    import torch
    from modelscope.models import Model
    from modelscope.pipelines import pipeline

    import modelscope_reid.modelscope_plugin

    model = Model.from_pretrained(folder, use_hf=False)  # our own type; without it ModelScope wants transformers
    assert isinstance(model, modelscope_reid.modelscope_plugin.ReidTorchModel)
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, *TINY.image_size)).shape == (2, 128)
    output = pipeline("image-reid-person", model=model, device="cpu")(CROPS[0])
    assert output["img_embedding"].shape == (1, 128)


def test_a_stock_folder_with_wrong_weights_is_refused_not_half_loaded(tmp_path: Path) -> None:
    import torch
    from modelscope.pipelines import pipeline

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    (tmp_path / "configuration.json").write_text((ROOT / "configuration.json").read_text())
    torch.save({"nothing.known": torch.zeros(3)}, tmp_path / "pytorch_model.pt")
    with pytest.raises(ValueError, match="of no known origin"):
        pipeline("image-reid-person", model=str(tmp_path), device="cpu")


def fresh(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own, with no way to any hub: port 9 of this machine answers nothing."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_no_model_and_no_network_is_one_line_that_says_what_to_do() -> None:
    result = fresh(
        "import modelscope_reid.modelscope_plugin\n"
        "from modelscope.pipelines import pipeline\n"
        "pipeline('image-reid-person', device='cpu')"
    )
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("modelscope_reid.errors.HubError: ") and "cv_passvitb_image-reid-person_market" in last
    assert "pass the path of a local model folder" in last


def test_the_hub_error_reaches_a_caller_as_ours() -> None:
    with pytest.raises(HubError, match="neither"):
        Embedder.from_pretrained("no such thing")


STOCK = """
import json, sys, numpy as np
from modelscope.pipelines import pipeline
if sys.argv[1] == "ours":
    import modelscope_reid.modelscope_plugin
reid = pipeline("image-reid-person", model=sys.argv[2], device="cpu")
assert (type(reid).__module__.split(".")[0] == "modelscope") == (sys.argv[1] == "stock"), type(reid)
assert sys.argv[1] == "ours" or not any(name.startswith("modelscope_reid") for name in sys.modules)
print(json.dumps([reid(path)["img_embedding"][0].tolist() for path in sys.argv[3:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"neck": "single", "fusion": "mean", "neck_feature": "after"},
        {"stride": 12, "preprocessing": Preprocessing(image_size=(384, 128))},
    ],
    ids=["hub model's heads", "single neck, mean, after", "overlap at 384x128"],
)
def test_our_folder_opens_in_plain_modelscope_with_the_same_embeddings(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = PassVitConfig(num_classes=11, **changes)
    folder = str(save_pretrained(ReidModel.with_seed(config), tmp_path / "model"))
    crops = CROPS[:2]
    runs = [fresh(STOCK, system, folder, *crops) for system in ("stock", "ours")]
    for run in runs:
        assert run.returncode == 0, run.stderr
    stock, ours = (np.array(json.loads(run.stdout.splitlines()[-1])) for run in runs)
    assert stock.shape == (2, config.embedding_dim)
    assert np.abs(stock - ours).max() <= 1e-4
    assert np.abs(stock[0] - stock[1]).max() > 1e-2, "different crops must differ, or this proves nothing"
