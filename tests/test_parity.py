"""Every embedding of the reference implementations, through the real path: file, `load_checkpoint`, forward.

`data/embeddings_salt0.npz` holds the outputs of ModelScope 1.40.2, PASS-reID, CLIP-ReID and torchreid on weights and
images that `parity_recipe.py` makes; a relative error of 1e-4 is the parity that the project promises.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_recipe import fill, images
from torch import Tensor

from modelscope_reid.config import ClipVitConfig, PassVitConfig, Preprocessing
from modelscope_reid.configuration import configuration_for
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.models.clip_text import load_prompted_text
from modelscope_reid.models.reid_model import ReidModel

DATA = Path(__file__).parent / "data"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((DATA / "state_dict_shapes.json").read_text())
REFERENCE = np.load(DATA / "embeddings_salt0.npz")
Shapes = dict[str, tuple[int, ...]]
Edit = Callable[[Shapes], None]


def _unchanged(shapes: Shapes) -> None:
    """Leave the published shapes."""


def _at_384(shapes: Shapes) -> None:
    shapes["base.pos_embed"] = (1, 24 * 8, 768)


def _mean(shapes: Shapes) -> None:
    shapes["classifier.weight"] = (751, 768)


def _one_neck(shapes: Shapes, width: int) -> None:
    for name in list(shapes):
        if name.startswith("bottleneck_"):
            del shapes[name]
        elif name.startswith("bottleneck.") and shapes[name]:
            shapes[name] = (width,)
    shapes["classifier.weight"] = (751, width)


def _mean_one_neck(shapes: Shapes) -> None:
    _one_neck(shapes, 768)


def _overlapping(shapes: Shapes) -> None:
    _one_neck(shapes, 1536)
    shapes["base.pos_embed"] = (1, 21 * 10, 768)


def _overlapping_with_cameras(shapes: Shapes) -> None:
    shapes["image_encoder.positional_embedding"] = (21 * 10 + 1, 768)
    shapes["cv_embed"] = (6, 768)


@dataclass(frozen=True)
class Case:
    """One weight file: whose shapes, with which change, and the entries that it must reproduce.

    `also_after` is the entry for the same weights in a folder whose configuration.json states "after".
    """

    published: str
    edit: Edit = _unchanged
    before: str | None = None
    also_after: str | None = None
    size: tuple[int, int] = (256, 128)
    camera_ids: tuple[int, ...] | None = None
    last: str | None = None
    text: str | None = None


PASS, CLIP = "pass_vitb16", "clipreid_ViT-B-16"
LARGE_CASES = [
    Case(
        "pass_vitb16_256x128",
        before=f"{PASS}_256x128_stride16_before_cat_multi",
        also_after=f"{PASS}_256x128_stride16_after_cat_multi",
    ),
    Case("pass_vitb16_256x128", _at_384, f"{PASS}_384x128_stride16_before_cat_multi", size=(384, 128)),
    Case("pass_vitb16_256x128", _mean, f"{PASS}_256x128_stride16_before_mean_multi"),
    Case("pass_vitb16_256x128", _mean_one_neck, also_after=f"{PASS}_256x128_stride16_after_mean_single"),
    Case("pass_vitb16_256x128", _overlapping, f"{PASS}_256x128_stride12_before_cat_single"),
    Case("pass_vits16_256x128", before="pass_vits16_256x128_stride16_before_cat_multi"),
    Case(
        "clipreid_ViT-B-16",
        before=f"{CLIP}_stride16_before",
        also_after=f"{CLIP}_stride16_after",
        last="_last_cls",
        text="_text",
    ),
    Case(
        "clipreid_ViT-B-16",
        _overlapping_with_cameras,
        f"{CLIP}_stride12_sie_before",
        camera_ids=(0, 3, 5),
        last="_last_cls",
    ),
    Case("clipreid_RN50", before="clipreid_RN50_stride16_before", last="_last_pooled", text="_text"),
]
OSNET_CASES = [Case(name, before=f"{name}_256x128") for name in ("osnet_x0_25", "osnet_x0_5", "osnet_x1_0")]


def _entries(case: Case) -> Iterator[str]:
    for name in filter(None, (case.before, case.also_after)):
        yield name
        if case.last:
            yield name + case.last
    if case.text:
        yield f"{case.before}{case.text}"


@functools.cache
def _filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of the recipe; most are shared between cases."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name in ("prompt_learner.token_prefix", "prompt_learner.token_suffix"):
        key = name.removeprefix("prompt_learner.")
        values = 0.02 * np.random.RandomState(7 + len(key)).standard_normal(shape)
        return torch.from_numpy(values.astype(np.float32))
    return torch.from_numpy(np.asarray(fill(name, shape)))


@pytest.fixture(scope="module", autouse=True)
def _forget_weights() -> Iterator[None]:
    yield
    _filled.cache_clear()


def write_checkpoint(case: Case, path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in SHAPES[case.published].items()}
    case.edit(shapes)
    torch.save({name: _filled(name, shape) for name, shape in shapes.items()}, path)


def check(entry: str, given: Tensor) -> None:
    expected = REFERENCE[entry]
    assert given.shape == expected.shape
    assert given.dtype == torch.float32
    error = np.linalg.norm(given.numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-4, f"{entry}: relative error {error:.2e}"


@torch.inference_mode()
def check_model(case: Case, entry: str, model: ReidModel) -> None:
    batch = torch.from_numpy(images(3, *case.size))
    camera_ids = torch.tensor(case.camera_ids) if case.camera_ids else None
    features = model.backbone(batch, camera_ids)
    check(entry, model.head(features))
    assert torch.equal(model.head(features), model(batch, camera_ids))
    if case.last:
        check(entry + case.last, features[0])


def after_folder(case: Case, weights: Path, folder: Path) -> Path:
    """A model folder stating NECK_FEAT "after": ModelScope's stock schema for PASS, ours for CLIP-ReID."""
    folder.mkdir()
    preprocessing = Preprocessing(image_size=case.size)
    if case.published.startswith("clip"):
        clip = ClipVitConfig(preprocessing=preprocessing, num_classes=751, neck_feature="after")
        configuration = configuration_for(clip)
    else:
        single = case.edit is _mean_one_neck
        stock = PassVitConfig(
            preprocessing=preprocessing,
            num_classes=751,
            neck_feature="after",
            neck="single" if single else "multi",
            fusion="mean" if single else "cat",
        )
        configuration = configuration_for(stock)
        del configuration["model"]["reid"]  # as the hub has it
        assert configuration["model"]["cfg"]["TEST"] == {"NECK_FEAT": "after"}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    weights.rename(folder / "pytorch_model.pt")
    return folder


def run(case: Case, folder: Path) -> None:
    weights = folder / "weights.pth"
    write_checkpoint(case, weights)
    try:
        if case.before:
            model, report = load_checkpoint(weights)
            names = set(SHAPES[case.published]) | ({"cv_embed"} if case.camera_ids else set())
            accounted = {name for name, _ in report.renamed} | {name for name, _ in report.left_out}
            assert {name for name in names - accounted if not name.startswith("bottleneck_")} == set()
            assert report.config.image_size == case.size
            check_model(case, case.before, model)
        if case.text:
            with torch.inference_mode():
                check(f"{case.before}{case.text}", load_prompted_text(weights)(torch.tensor([0, 17, 750])))
        if case.also_after:
            model, report = load_checkpoint(after_folder(case, weights, folder / "model"))
            assert (report.config.neck_feature, report.notes) == ("after", ())
            check_model(case, case.also_after, model)
    finally:
        for path in folder.rglob("*.p*t*"):
            path.unlink()  # pytest keeps folders; these are 0.4 GB each


def test_every_entry_is_covered() -> None:
    covered = [entry for case in LARGE_CASES + OSNET_CASES for entry in _entries(case)]
    assert sorted(covered) == sorted(REFERENCE.files)
    assert {case.published for case in LARGE_CASES + OSNET_CASES} == set(SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE_CASES, ids=lambda case: str(case.before or case.also_after))
def test_large_model_gives_the_reference_embeddings(case: Case, tmp_path: Path) -> None:
    run(case, tmp_path)


@pytest.mark.parametrize("case", OSNET_CASES, ids=lambda case: case.published)
def test_osnet_gives_the_reference_embeddings(case: Case, tmp_path: Path) -> None:
    run(case, tmp_path)
