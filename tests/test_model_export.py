"""Exports: every family, format and precision there and back, and refusals that write nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS, tiny_images, tiny_model
from tiny_exports import crops_folder, exported, model_folder

from modelscope_reid import Embedder, model_export
from modelscope_reid.configuration import read_verifier, write_verifier
from modelscope_reid.datasets.readers import read_dataset
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.errors import InputError
from modelscope_reid.model_export import export_model
from modelscope_reid.ranking.calibration import Verifier
from modelscope_reid.runtimes import Precision
from modelscope_reid.runtimes.exported_folder import read_export
from modelscope_reid.runtimes.parity_report import TOLERANCES, ExportFormat, compare_embeddings

COMPUTED: dict[str, tuple[str, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp32",),
    "bf16": ("bf16", "fp32"),
    "int8": ("int8",),
}


def check(family: str, format: ExportFormat, precision: Precision) -> None:
    """Open an export, and compare batches of 1 and 37 with the model in plain PyTorch."""
    folder, config = exported(family, format, precision), TINY_CONFIGS[family]
    embedder = Embedder.from_pretrained(folder, threads=1)
    info = read_export(folder)
    assert embedder.config == config and info is not None and info.precision == precision
    assert embedder.runtime.precision in COMPUTED[precision]
    model = tiny_model(config)
    for count in (1, 37):
        images = tiny_images(config, count, seed=count)
        cameras = np.arange(count) % 4 - 1
        with torch.inference_mode():
            reference = model(images, torch.from_numpy(cameras)).numpy()
        found = compare_embeddings(reference, embedder.runtime.run(images.numpy(), cameras))
        assert found.count == count and found.cosine_mean >= TOLERANCES[precision]
        if precision == "fp32":
            assert found.largest_difference <= 1e-4


@pytest.mark.parametrize("format", ["openvino", "onnx"])
@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_every_family_there_and_back(family: str, format: ExportFormat) -> None:
    check(family, format, "fp32")


@pytest.mark.parametrize(
    ("format", "precision"),
    [("openvino", "fp16"), ("openvino", "bf16"), ("openvino", "int8"), ("onnx", "fp16"), ("onnx", "int8")],
)
def test_every_precision_there_and_back_with_cameras(format: ExportFormat, precision: Precision) -> None:
    check("clip_vit", format, precision)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["openvino", "onnx"])
def test_the_packages_own_model_in_int8(format: ExportFormat, tmp_path: Path) -> None:
    report = export_model(None, tmp_path / "int8", format=format, precision="int8", calibration=crops_folder())
    assert report.cosines.closeness >= TOLERANCES["int8"]
    crops = [str(path) for path in sorted((Path(__file__).parents[1] / "assets").glob("*.png"))]
    found = Embedder.from_pretrained(tmp_path / "int8", threads=1).embed(crops)
    reference = Embedder.from_pretrained(device="cpu", runtime="torch").embed(crops)
    assert compare_embeddings(reference, found).cosine_mean >= TOLERANCES["int8"]


def test_lower_precisions_make_smaller_files() -> None:
    sizes = {
        precision: sum(file.stat().st_size for file in exported("clip_vit", "openvino", precision).glob("*.bin"))
        for precision in ("fp32", "fp16", "bf16", "int8")
    }
    assert sizes["fp16"] == sizes["bf16"] < 0.55 * sizes["fp32"] and sizes["int8"] < 0.3 * sizes["fp32"]


def test_a_mean_cosine_below_the_tolerance_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_export.TOLERANCES, "bf16", 0.99999999)
    with pytest.raises(InputError, match=r"nothing is written.*PyTorch's on 32 crops: mean cosine 0\.99.*use fp32"):
        export_model(model_folder("pass_vit"), tmp_path / "deep" / "new", precision="bf16")
    assert not list(tmp_path.iterdir())
    before = shutil.copytree(exported("pass_vit", "openvino"), tmp_path / "old")
    names = {file.name: file.read_bytes() for file in Path(before).iterdir()}
    with pytest.raises(InputError, match="nothing is written"):
        export_model(model_folder("pass_vit"), before, precision="bf16")
    assert {file.name: file.read_bytes() for file in Path(before).iterdir()} == names
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_an_export_takes_the_place_of_an_older_one_whole(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported("pass_vit", "openvino"), tmp_path / "export"))
    export_model(model_folder("pass_vit"), folder, format="onnx")
    assert sorted(file.name for file in folder.iterdir()) == ["configuration.json", "model.onnx"]
    assert Embedder.from_pretrained(folder, threads=1).runtime.name == "onnxruntime on cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "precision": "bf16"}, "ONNX Runtime has no bf16 on a CPU; use --format openvino"),
        ({"precision": "int8"}, "int8 needs crops to calibrate with: give --calibration"),
        ({"precision": "int4"}, "precision 'int4'; expected openvino or onnx, in fp32, fp16, bf16, int8"),
        ({"calibration": "/no/such/folder"}, "/no/such/folder is no folder"),
    ],
)
def test_what_cannot_be_exported_is_said_before_the_work(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_model(model_folder("pass_vit"), tmp_path / "new", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_too_few_crops_are_refused(tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for path in sorted(crops_folder().iterdir())[:31]:
        shutil.copy(path, tmp_path / "crops")
    with pytest.raises(InputError, match="crops: 31 crops; expected 32 or more"):
        export_model(model_folder("pass_vit"), tmp_path / "new", precision="int8", calibration=tmp_path / "crops")


def test_an_export_is_not_exported_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an export already; export the model that it was made from"):
        export_model(exported("pass_vit", "openvino"), tmp_path / "new")


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'modelscope-reid\[onnx\]'"):
        export_model(model_folder("pass_vit"), tmp_path / "new", format="onnx")


def test_the_calibration_of_same_and_different_goes_with_it(tmp_path: Path) -> None:
    source = Path(shutil.copytree(model_folder("pass_vit"), tmp_path / "model"))
    verifier = Verifier.from_dict(json.loads((bundled() / "configuration.json").read_text())["verification"])
    write_verifier(source, verifier)
    export_model(source, tmp_path / "export")
    assert read_verifier(tmp_path / "export") == verifier
    assert Embedder.from_pretrained(tmp_path / "export", threads=1).verifier == verifier


def bundled() -> Path:
    from modelscope_reid.hub import bundled_model

    return bundled_model()


def test_a_dataset_gives_crops_and_figures_of_both(tmp_path: Path) -> None:
    write_synthetic_market(tmp_path / "market", people=8, train_people=4, cameras=4)
    dataset = read_dataset("market1501", tmp_path / "market")
    report = export_model(model_folder("pass_vit"), tmp_path / "export", precision="fp16", dataset=dataset)
    assert report.dataset == dataset.name and report.torch is not None and report.exported is not None
    assert report.crops == "held out of the training images"
    assert 0 < report.torch.mAP < 1 and abs(report.torch.mAP - report.exported.mAP) < 0.01
    info = read_export(tmp_path / "export")
    assert info is not None and info.parity == report


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be"):
        export_model(model_folder("pass_vit"), tmp_path / "file" / "new")
