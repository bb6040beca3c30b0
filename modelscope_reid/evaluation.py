"""How good is this model on these people: the papers' figures by the papers' protocol, and a report that explains them.

In: an embedder and a dataset, or embeddings that were saved. Out: an `Evaluation`: the ranking report, how it was
made, and on request a folder with report.json, report.md, features.npz and pictures. Knows nothing of the command
line.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_reid.datasets.records import Dataset
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.feature_store import LabelledFeatures, embed_dataset
from modelscope_reid.files import whole_file
from modelscope_reid.plots import (
    RankedList,
    RankedMatch,
    draw_cmc,
    draw_embedding_map,
    draw_ranked_lists,
    draw_similarity_distribution,
)
from modelscope_reid.ranking.calibration import Verifier, fit_verifier
from modelscope_reid.ranking.expansion import expand_queries
from modelscope_reid.ranking.labelled import DISTRACTOR_ID, LabelledEmbeddings
from modelscope_reid.ranking.metrics import rank, rank_distances, without_junk
from modelscope_reid.ranking.protocols import camera_pairs
from modelscope_reid.ranking.report import RankingReport, SameCamera, confidence_intervals
from modelscope_reid.ranking.reranking import rerank
from modelscope_reid.ranking.verification import Pairs, choose_thresholds, sample_pairs, verify

PACKAGES = ("modelscope_reid", "torch", "timm", "numpy", "scipy", "pillow")
LISTED_MATCHES = 10
LISTS = "ranked_lists.png"
PICTURES = {
    "cmc.png": "Cumulative matching curve",
    "similarities.png": "Similarities of same and different people",
    LISTS: "Ranked lists",
    "map.png": "Map of the embeddings",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How figures are made. `query_expansion` is how many neighbours a query is averaged with; 0 is none.

    Raises:
        InputError: a negative `query_expansion`.
    """

    same_camera: SameCamera = "remove"
    rerank: bool = False
    flip: bool = False
    query_expansion: int = 0

    def __post_init__(self) -> None:
        if self.query_expansion < 0:
            raise InputError(f"query_expansion is {self.query_expansion}; expected 0 (none) or more neighbours.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "same_camera": self.same_camera,
            "rerank": {"k1": 20, "k2": 6, "lambda": 0.3} if self.rerank else False,
            "flip": self.flip,
            "query_expansion": self.query_expansion,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The figures of one model on one dataset. `provenance` says what was measured, and with what."""

    ranking: RankingReport
    features: LabelledFeatures
    protocol: Protocol
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def pairs(self) -> Pairs:
        """Every pair of the same person that ranking counts, and 100 random different ones for each query.

        Raises:
            InputError: there is no pair of one kind.
        """
        return sample_pairs(self.features.query, self.features.gallery, same_camera=self.protocol.same_camera)

    @cached_property
    def verifier(self) -> Verifier:
        """A calibration on `pairs`: at most 1 in 1,000 different pairs is called same, 1 in 100 same ones different."""
        return fit_verifier(self.pairs, choose_thresholds(self.pairs))

    @property
    def mAP(self) -> float:  # noqa: N802  # the papers' name
        """Mean average precision, 0..1."""
        return self.ranking.mAP

    @property
    def mINP(self) -> float:  # noqa: N802  # the papers' name
        """Mean inverse negative penalty, 0..1."""
        return self.ranking.mINP

    @property
    def queries_skipped(self) -> int:
        """Queries without a true match, left out of every mean."""
        return self.ranking.queries_skipped

    def rank(self, k: int) -> float:
        """Return Rank-k, 0..1."""
        return self.ranking.rank(k)

    def summary(self) -> str:
        """Return the figures as a person reads them, in percent."""
        ranking = self.ranking
        name = self.provenance.get("dataset", {}).get("name", "saved embeddings")
        ranks = "  ".join(f"Rank-{k} {100 * ranking.rank(k):.1f}" for k in (1, 5, 10))
        lines = [
            f"{name}: {ranking.queries} queries, {ranking.gallery} gallery images",
            f"mAP {100 * ranking.mAP:.1f}  {ranks}  mINP {100 * ranking.mINP:.1f}",
        ]
        if ranking.skipped:
            reasons = "; ".join(sorted({skipped.reason for skipped in ranking.skipped}))
            lines.append(f"{ranking.queries_skipped} queries skipped ({reasons})")
        lines += [f"note: {note}" for note in self.provenance.get("dataset", {}).get("notes", [])]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: figures first, then intervals, protocol and provenance."""
        intervals = {name: interval.to_dict() for name, interval in confidence_intervals(self.ranking).items()}
        return {
            **self.ranking.figures(),
            "intervals": intervals,
            "verification": {**verify(self.pairs).to_dict(), "verifier": self.verifier.to_dict()},
            "camera_pairs": camera_pairs(self.features.query, self.features.gallery).to_dict(),
            "protocol": self.protocol.to_dict(),
            "provenance": dict(self.provenance),
        }


def evaluate(
    embedder: Embedder,
    dataset: Dataset,
    *,
    protocol: Protocol | None = None,
    output: Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Embed queries and gallery of `dataset` and rank them.

    With `output`, embeddings are written there while they are computed (a stopped run goes on where it was), and the
    report at the end.

    Raises:
        InputError: no query or no gallery, no query with a true match, or a folder of another run.
        ImageError: an image that cannot be read.
    """
    protocol = protocol or Protocol()
    folder = output / "rows" if output else None
    features = embed_dataset(embedder, dataset, folder, flip=protocol.flip, progress=progress)
    provenance = {
        "dataset": dataset.to_dict(),
        "model": {
            "source": embedder.report.source if embedder.report else None,
            "fingerprint": embedder.fingerprint,
            "runtime": embedder.runtime.name,
            "config": embedder.config.to_dict(),
        },
        "versions": versions(),
    }
    evaluation = evaluate_features(features, protocol=protocol, provenance=provenance)
    if output:
        write_report(evaluation, output)
    return evaluation


def evaluate_features(
    features: LabelledFeatures, *, protocol: Protocol | None = None, provenance: Mapping[str, Any] | None = None
) -> Evaluation:
    """Rank embeddings that were computed before, by any program.

    Raises:
        InputError: no query, no gallery, or no query with a true match.
    """
    protocol = protocol or Protocol()
    query, gallery = features.query, without_junk(features.gallery)
    if not len(query) or not len(gallery):
        raise InputError(
            f"the table has {len(query)} queries and {len(gallery)} gallery images; expected some of both."
        )
    if protocol.query_expansion:
        expanded = expand_queries(query.vectors, gallery.vectors, neighbours=protocol.query_expansion)
        query = LabelledEmbeddings(vectors=expanded, person_ids=query.person_ids, camera_ids=query.camera_ids)
    if protocol.rerank:
        distances = rerank(query.vectors, gallery.vectors).blocks()
        ranking = rank_distances(distances, query, gallery, same_camera=protocol.same_camera)
    else:
        ranking = rank(query, gallery, same_camera=protocol.same_camera)
    given = dict(provenance) if provenance is not None else {"versions": versions()}
    return Evaluation(ranking=ranking, features=features, protocol=protocol, provenance=given)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write report.json, report.md, features.npz and the pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.features.save(folder / "features.npz")
    _draw(evaluation, folder)
    values = evaluation.to_dict()
    texts = {
        "report.json": json.dumps(values, indent=2) + "\n",
        "report.md": report_markdown(evaluation, values),
    }
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def report_markdown(evaluation: Evaluation, values: Mapping[str, Any]) -> str:
    """Return the report as Markdown: figures with intervals, how they were made, what was skipped, the pictures.

    `values` is `Evaluation.to_dict`, which draws bootstrap samples: whoever writes both makes it once.
    """
    dataset, verification = values["provenance"].get("dataset", {}), values["verification"]
    lines = [f"# {dataset.get('name', 'Saved embeddings')}", "", "| figure | value | 95 % interval |", "|---|---|---|"]
    for name, interval in values["intervals"].items():
        lines.append(f"| {name} | {values[name]:.4f} | {interval['low']:.4f} to {interval['high']:.4f} |")
    ranking = evaluation.ranking
    lines += [
        "",
        f"{ranking.queries} queries against {ranking.gallery} gallery images; {ranking.queries_skipped} skipped.",
        "",
        f"Verification: area under the ROC curve {verification['area']:.4f}, equal error rate "
        f"{verification['equal_error_rate']:.4f}; "
        + ", ".join(f"TAR {tar:.4f} at FAR {far}" for far, tar in verification["true_accept_rates"].items())
        + ".",
        "",
        f"Protocol: {json.dumps(values['protocol'])}.",
        "",
        *(f"- {note}" for note in dataset.get("notes", [])),
        *(f"- query {skipped.row} was skipped: {skipped.reason}" for skipped in ranking.skipped[:10]),
        "",
        *(f"![{title}]({name})" for name, title in PICTURES.items() if name != LISTS or _has_pictures(evaluation)),
    ]
    return "\n".join(lines) + "\n"


def _draw(evaluation: Evaluation, folder: Path) -> None:
    """Draw the four pictures."""
    features, ranking = evaluation.features, evaluation.ranking
    name = str(evaluation.provenance.get("dataset", {}).get("name", "saved embeddings"))
    draw_cmc(ranking.cmc, folder / "cmc.png", mAP=ranking.mAP, title=name)
    pairs, threshold = evaluation.pairs, evaluation.verifier.thresholds.same_from
    draw_similarity_distribution(
        pairs.similarities[pairs.same],
        pairs.similarities[~pairs.same],
        folder / "similarities.png",
        threshold=threshold,
    )
    if _has_pictures(evaluation):
        draw_ranked_lists(ranked_lists(evaluation), folder / LISTS)
    people = features.person_ids != DISTRACTOR_ID
    draw_embedding_map(
        features.embeddings[people], features.person_ids[people], features.camera_ids[people], folder / "map.png"
    )


def _has_pictures(evaluation: Evaluation) -> bool:
    """Tell whether the crops that the embeddings are of are still where they were."""
    return all(Path(path).is_file() for path in evaluation.features.paths)


def ranked_lists(evaluation: Evaluation) -> tuple[RankedList, ...]:
    """Return what the best, the median and the worst query find, by plain similarity."""
    ranking, features = evaluation.ranking, evaluation.features
    order = np.argsort(ranking.average_precisions, kind="stable")
    chosen = dict.fromkeys(int(order[place]) for place in (-1, len(order) // 2, 0))
    return tuple(
        _ranked_list(features, int(ranking.query_rows[place]), float(ranking.average_precisions[place]), evaluation)
        for place in chosen
    )


def _ranked_list(features: LabelledFeatures, row: int, average_precision: float, evaluation: Evaluation) -> RankedList:
    query, gallery = features.query, features.gallery
    paths = features.paths[~features.is_query]
    similarities = gallery.unit @ query.unit[row]
    own = gallery.person_ids == query.person_ids[row]
    hidden = gallery.person_ids < 0
    if evaluation.protocol.same_camera == "remove":
        hidden |= own & (gallery.camera_ids == query.camera_ids[row])
    nearest = [int(index) for index in np.argsort(-similarities, kind="stable") if not hidden[index]][:LISTED_MATCHES]
    return RankedList(
        query=str(features.paths[features.is_query][row]),
        query_camera=int(query.camera_ids[row]),
        average_precision=average_precision,
        matches=tuple(
            RankedMatch(
                path=str(paths[index]),
                camera=int(gallery.camera_ids[index]),
                similarity=float(similarities[index]),
                correct=bool(own[index]),
            )
            for index in nearest
        ),
    )
