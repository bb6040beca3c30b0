"""The published table beside ours: every published model and dataset at hand, measured by its own protocol.

In: a folder of local models and a folder of datasets. Out: a `Reproduction`: for each published row our figure, the
published one, their difference and a verdict, or what is missing and how to get it. Downloads nothing. Knows nothing
of the command line.

Sources of the figures: PASS-reID (Zhu et al., ECCV 2022) and ModelScope's card of its Market-1501 model; CLIP-ReID
(Li et al., AAAI 2023) and its repository; torchreid's model zoo for OSNet (Zhou et al., ICCV 2019). Protocols that
differ from the usual one, as published code has them: CLIP-ReID re-ranks with k1 50, k2 15, lambda 0.3 and gives a
camera embedding the image's camera; torchreid compares OSNet's features by Euclidean distance as they are, not at
unit length. MSMT17 is version 1 in all of them (folders `train` and `test`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.config import BACKBONES, ClipVitConfig, ModelConfig
from modelscope_reid.datasets.checks import subfolders
from modelscope_reid.datasets.published import PUBLISHED
from modelscope_reid.datasets.readers import read_dataset
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError, ReidError
from modelscope_reid.evaluation import evaluate_features
from modelscope_reid.feature_store import LabelledFeatures, embed_dataset
from modelscope_reid.ranking.blocks import row_blocks
from modelscope_reid.ranking.metrics import rank_distances, without_junk
from modelscope_reid.ranking.report import RankingReport
from modelscope_reid.ranking.reranking import rerank

Verdict = Literal["pass", "fail", "not comparable", "not run"]
Distance = Literal["unit length", "as they are"]

TOLERANCE = 0.2
"""How many points of mAP or Rank-1 ours may lie from the published figure."""
NO_PART_OF_EMBEDDING = {"drop_path", "neck"}
"""Fields of a config that change no figure here: all rows are of features before the neck."""


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """Where a dataset is looked for: the reader's name, and usual folder names in small letters, the best first."""

    reader: str
    folders: tuple[str, ...]
    how_to_get: str


SOURCES: dict[str, DatasetSource] = {
    "market1501": DatasetSource(
        reader="market1501",
        folders=("market-1501-v15.09.15", "market-1501", "market1501"),
        how_to_get="download Market-1501-v15.09.15.zip from its authors' page (Zheng et al., ICCV 2015) and unpack it",
    ),
    "msmt17_v1": DatasetSource(
        reader="msmt17",
        folders=("msmt17_v1", "msmt17"),
        how_to_get="ask its authors (Wei et al., CVPR 2018) for MSMT17_V1 and unpack it with its four lists",
    ),
}
"""By the names of `PUBLISHED`."""


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """One row of the published table: mAP and Rank-1 in percent of `model` on `dataset` (a name of `SOURCES`).

    A local file or folder claims the row by a name that starts with `model`; it is run where its config is `config`.
    `reranking` is (k1, k2, lambda). `distance` says whether features are compared at unit length or as they are.
    """

    model: str
    dataset: str
    config: ModelConfig
    mAP: float  # noqa: N815  # the papers' name
    rank1: float
    source: str
    how_to_get: str
    reranking: tuple[int, int, float] | None = None
    distance: Distance = "unit length"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the published model's input."""
        return self.config.image_size

    @property
    def dataset_name(self) -> str:
        """The dataset's name as figures are labelled."""
        return PUBLISHED[self.dataset].name


def _config(backbone: str, dataset: str, *, height: int = 256, **values: Any) -> ModelConfig:
    """Return the config of a published size, trained on `dataset`."""
    config, people = BACKBONES[backbone], PUBLISHED[dataset].train[1]
    preprocessing = dataclasses.replace(config.preprocessing, image_size=(height, 128))
    return dataclasses.replace(config, preprocessing=preprocessing, num_classes=people, **values)


def _pass(size: str, height: int, dataset: str, figures: tuple[float, float]) -> PublishedFigure:
    """Return PASS's row of a ViT, `size` small or base; `figures` are (mAP, Rank-1)."""
    return PublishedFigure(
        model=f"pass_vit_{size}_{height}_{'market' if dataset == 'market1501' else 'msmt17'}",
        dataset=dataset,
        config=_config(f"pass_vit_{size}", dataset, height=height),
        mAP=figures[0],
        rank1=figures[1],
        source="PASS",
        how_to_get="take it from the readme of github.com/CASIA-IVA-Lab/PASS-reID (Supervised ReID)",
    )


HUB_MODEL = "cv_passvitb_image-reid-person_market"
CLIP_REID = "take it from the readme of github.com/Syliz517/CLIP-ReID"

FIGURES: tuple[PublishedFigure, ...] = (
    _pass("small", 256, "market1501", (92.2, 96.3)),
    _pass("small", 384, "market1501", (92.6, 96.8)),
    _pass("base", 256, "market1501", (93.0, 96.8)),
    _pass("base", 384, "market1501", (93.3, 96.9)),
    PublishedFigure(
        model=HUB_MODEL,
        dataset="market1501",
        config=_config("pass_vit_base", "market1501", height=384),
        mAP=93.3,
        rank1=96.9,
        source="ModelScope's model card",
        how_to_get=f"fetch it with `modelscope download --model damo/{HUB_MODEL} --local_dir {HUB_MODEL}`",
    ),
    PublishedFigure(
        model="clip_reid_rn50_market",
        dataset="market1501",
        config=_config("clip_resnet50", "market1501"),
        mAP=89.8,
        rank1=95.7,
        source="CLIP-ReID",
        how_to_get=f"{CLIP_REID} (CNN-CLIP-ReID, Market)",
    ),
    PublishedFigure(
        model="osnet_x1_0_market",
        dataset="market1501",
        config=_config("osnet_x1_0", "market1501"),
        mAP=82.6,
        rank1=94.2,
        source="OSNet, pretrained on ImageNet",
        how_to_get="take it from docs/MODEL_ZOO.md of github.com/KaiyangZhou/deep-person-reid (same-domain ReID)",
        distance="as they are",
    ),
    _pass("small", 256, "msmt17_v1", (69.1, 86.5)),
    _pass("small", 384, "msmt17_v1", (71.7, 87.9)),
    _pass("base", 256, "msmt17_v1", (71.8, 88.2)),
    _pass("base", 384, "msmt17_v1", (74.3, 89.7)),
    PublishedFigure(
        model="clip_reid_vit_sie_olp_msmt17",
        dataset="msmt17_v1",
        config=_config("clip_vit_base", "msmt17_v1", stride=12, cameras=PUBLISHED["msmt17_v1"].cameras),
        mAP=86.7,
        rank1=91.1,
        source="CLIP-ReID, re-ranked",
        how_to_get=f"{CLIP_REID} (ViT-CLIP-ReID-SIE-OLP, MSMT17)",
        reranking=(50, 15, 0.3),
    ),
)
"""The published table."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row with one local model: `ours` is (mAP, Rank-1) in percent; `reason` explains the verdict.

    `model` and `dataset` are what was found; None where it was not.
    """

    figure: PublishedFigure
    verdict: Verdict
    model: Path | None = None
    dataset: str | None = None
    ours: tuple[float, float] | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The local model's name, or the one that is looked for."""
        return self.model.name if self.model else self.figure.model

    @property
    def differences(self) -> tuple[float, float] | None:
        """Ours minus the published (mAP, Rank-1), in points."""
        return (self.ours[0] - self.figure.mAP, self.ours[1] - self.figure.rank1) if self.ours else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; figures in percent."""
        figure, names = self.figure, ("mAP", "rank1")
        return {
            "model": figure.model,
            "dataset": figure.dataset_name,
            "image_size": list(figure.image_size),
            "source": figure.source,
            "published": dict(zip(names, (figure.mAP, figure.rank1), strict=True)),
            "ours": dict(zip(names, self.ours, strict=True)) if self.ours else None,
            "difference": dict(zip(names, self.differences, strict=True)) if self.differences else None,
            "verdict": self.verdict,
            "reason": self.reason,
            "protocol": {"rerank": list(figure.reranking) if figure.reranking else None, "features": figure.distance},
            "found_model": str(self.model) if self.model else None,
            "found_dataset": self.dataset,
        }


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Every published row and what became of it; `unclaimed` are local models that no row has the name of."""

    outcomes: tuple[Outcome, ...]
    unclaimed: tuple[Path, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no comparable row is off by more than the tolerance; true where nothing could be compared."""
        return all(outcome.verdict != "fail" for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "passed": self.passed,
            "tolerance": TOLERANCE,
            "rows": [outcome.to_dict() for outcome in self.outcomes],
            "unclaimed": [str(path) for path in self.unclaimed],
        }

    def __str__(self) -> str:
        heads = ("model", "dataset", "mAP", "published", "diff", "Rank-1", "published", "diff", "verdict")
        rows = [heads, *(_cells(outcome) for outcome in self.outcomes)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [
                cell.rjust(width) if 2 <= place < len(heads) - 1 else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines += ["", *(f"{outcome.name}: {outcome.reason}" for outcome in self.outcomes if outcome.reason)]
        if self.unclaimed:
            names = ", ".join(path.name for path in self.unclaimed)
            lines.append(f"no row has the name of: {names}; start a name with one of the first column to claim it.")
        verdicts = [outcome.verdict for outcome in self.outcomes]
        said = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict) if verdict in verdicts)
        return "\n".join([*lines, "", f"{said} (at most {TOLERANCE} points off passes)"])


def _cells(outcome: Outcome) -> tuple[str, ...]:
    figure, ours, differences = outcome.figure, outcome.ours, outcome.differences
    values: list[str] = []
    for place, published in enumerate((figure.mAP, figure.rank1)):
        values += [f"{ours[place]:.2f}" if ours else "-", f"{published:.1f}"]
        values.append(f"{differences[place]:+.2f}" if differences else "-")
    return outcome.name, outcome.dataset or figure.dataset_name, *values, outcome.verdict


def reproduce(
    models: Path,
    root: Path,
    *,
    figures: Sequence[PublishedFigure] | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Reproduction:
    """Measure every published row (`FIGURES` by default) whose model is in `models` and whose dataset is in `root`.

    A model or dataset that is missing, broken or another one than its name says is no error: its row says so.
    """
    figures = FIGURES if figures is None else figures
    found = sorted(path for path in models.iterdir() if path.name[0] != ".") if models.is_dir() else []
    datasets = {name: _find_dataset(root, name) for name in dict.fromkeys(figure.dataset for figure in figures)}
    outcomes: list[Outcome] = []
    for figure in figures:
        dataset = datasets[figure.dataset]
        claiming = [path for path in found if _claims(path, figure)]
        if not claiming or not isinstance(dataset, Dataset):
            outcomes.append(_missing(figure, models, claiming, dataset))
            continue
        for path in claiming:
            try:
                embedder = _open(path, figure, device=device)
                outcomes.append(_measure(embedder, dataset, figure, path, progress=progress))
            except ReidError as error:
                failed = Outcome(figure=figure, verdict="not run", model=path, dataset=dataset.name, reason=str(error))
                outcomes.append(failed)
    unclaimed = tuple(path for path in found if not any(_claims(path, figure) for figure in figures))
    return Reproduction(outcomes=tuple(outcomes), unclaimed=unclaimed)


def _claims(path: Path, figure: PublishedFigure) -> bool:
    """Tell whether a file's or folder's name starts with the row's, and a word ends there."""
    name, key = (text.lower().replace("-", "_") for text in (path.name, figure.model))
    return name.startswith(key) and not name[len(key) :][:1].isalnum()


def _find_dataset(root: Path, name: str) -> Dataset | InputError:
    """Read a dataset of `SOURCES` from the folder of a usual name in `root`, or return what stands in the way."""
    source, inside = SOURCES[name], subfolders(root)
    names = [*source.folders, *(folder for folder in inside if folder.startswith(source.folders))]
    folder = next((inside[folder] for folder in names if folder in inside), None)
    if folder is None:
        return InputError(f"no dataset {PUBLISHED[name].name} in {root}: {source.how_to_get} into {root}.")
    try:
        return read_dataset(source.reader, folder)
    except InputError as error:
        return error


def _missing(figure: PublishedFigure, models: Path, claiming: Sequence[Path], dataset: Dataset | InputError) -> Outcome:
    """Return the outcome of a row that lacks a model, a dataset or both, and how to get them."""
    reasons = []
    if not claiming:
        where = f"under a name that starts with {figure.model}, as a model folder or weight file"
        reasons.append(f"no such model in {models}: {figure.how_to_get}, and put it there {where}.")
    if not isinstance(dataset, Dataset):
        reasons.append(str(dataset))
    return Outcome(
        figure=figure,
        verdict="not run",
        model=claiming[0] if claiming else None,
        dataset=dataset.name if isinstance(dataset, Dataset) else None,
        reason=" ".join(reasons),
    )


def _open(path: Path, figure: PublishedFigure, *, device: str | None) -> Embedder:
    """Open a local model as the row's; a CLIP ViT in the row's layout, whatever its folder was converted to.

    Raises:
        ReidError: it does not open, or is another model than its name says.
    """
    embedder, published = Embedder.from_pretrained(path, device=device), figure.config
    if isinstance(published, ClipVitConfig) and isinstance(embedder.config, ClipVitConfig):
        embedder = Embedder.from_pretrained(path, device=device, layout=published.layout)
    mismatches = _mismatches(embedder.config, published)
    if mismatches:
        raise InputError(f"{path} is not the model that its name says: {'; '.join(mismatches)}. Rename or replace it.")
    return embedder


def _mismatches(config: ModelConfig, expected: ModelConfig) -> list[str]:
    """Return how a config differs from the published model's; a classifier that was left out is no difference."""
    if config.family != expected.family:
        return [f"its family is {config.family} (published: {expected.family})"]
    found, published = ({**_flat(each), "image_size": each.image_size} for each in (config, expected))
    if not config.num_classes:
        del published["num_classes"]
    return [
        f"its {name} is {found[name]} (published: {value})"
        for name, value in published.items()
        if found[name] != value and name not in NO_PART_OF_EMBEDDING
    ]


def _flat(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config and of its preprocessing by name."""
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return {**dataclasses.asdict(values.pop("preprocessing")), **values}


def _measure(embedder: Embedder, dataset: Dataset, figure: PublishedFigure, path: Path, *, progress: bool) -> Outcome:
    """Measure one model on the row's dataset and judge the figure."""
    report = _ranking(embed_dataset(embedder, dataset, progress=progress), figure)
    ours = 100 * report.mAP, 100 * report.rank(1)
    off = max(abs(ours[0] - figure.mAP), abs(ours[1] - figure.rank1))
    verdict: Verdict = "fail" if off > TOLERANCE + 1e-9 else "pass"
    reason = f"{off:.2f} points from what {figure.source} publishes." if verdict == "fail" else ""
    if not dataset.official or dataset.name != figure.dataset_name:
        verdict = "not comparable"
        reason = f"the figure is published for {figure.dataset_name} whole; this is {dataset.name}, {dataset.root}."
    return Outcome(figure=figure, verdict=verdict, model=path, dataset=dataset.name, ours=ours, reason=reason)


def _ranking(features: LabelledFeatures, figure: PublishedFigure) -> RankingReport:
    """Rank by the protocol that the row was published with."""
    query, gallery = features.query, without_junk(features.gallery)
    if figure.reranking:
        k1, k2, lambda_value = figure.reranking
        distances = rerank(query.vectors, gallery.vectors, k1=k1, k2=k2, lambda_value=lambda_value)
        return rank_distances(distances.blocks(), query, gallery)
    if figure.distance == "as they are":
        return rank_distances(_squared_distances(query.vectors, gallery.vectors), query, gallery)
    return evaluate_features(features).ranking


def _squared_distances(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield squared Euclidean distances (B, G) of consecutive queries with the gallery."""
    lengths = np.einsum("nd,nd->n", gallery, gallery)
    for rows in row_blocks(len(queries), len(gallery)):
        block = queries[rows]
        yield np.einsum("nd,nd->n", block, block)[:, None] + lengths - 2.0 * (block @ gallery.T)
