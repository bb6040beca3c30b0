"""What an export costs in exactness: its embeddings beside those of the network in PyTorch and float32.

In: embeddings (N, D) of the same crops from both. Out: a `ParityReport`: cosines, the largest difference, and where a
dataset was at hand mAP and Rank-1 of both. Knows nothing of engines, files or where the crops come from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.fields import check_fields, require_share
from modelscope_reid.runtimes import Precision

ExportFormat = Literal["openvino", "onnx"]

TOLERANCES: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.995}
"""The least mean cosine that an export of each precision may have."""
CENTRED_SLACK = 4.0
"""How many times further from 1 the mean cosine may be once what all crops have in common is taken off."""
_SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class RankingFigures:
    """mAP and Rank-1 of one network on one dataset, each 0..1."""

    mAP: float  # noqa: N815  # the papers' name
    rank1: float

    def __post_init__(self) -> None:
        check_fields(self)
        require_share("mAP", self.mAP)
        require_share("rank1", self.rank1)


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """How near vectors are to others: the least and the mean cosine of the pairs, and the largest difference.

    `centred_mean` is the mean cosine once the reference's mean is taken off both. Features from before a neck can be so
    alike that any two crops have a cosine of 0.9996; then only this one tells. `largest_difference` is that of any two
    numbers, as a share of the largest number of the reference.
    """

    count: int
    cosine_min: float
    cosine_mean: float
    centred_mean: float
    largest_difference: float

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def closeness(self) -> float:
        """The mean cosine, or what the centred one amounts to with its slack where that is less."""
        return min(self.cosine_mean, 1.0 - (1.0 - self.centred_mean) / CENTRED_SLACK)


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """An exported network beside the one it was made from, on crops that it was not calibrated with.

    `computed_in` is what the exported network computes in on the machine that compared them: float32 where a lower
    precision is only how weights are stored, or where this machine lacks it. `crops` says which crops were compared,
    `tolerance` the least mean cosine, `left_in_float` what was left out of int8. `torch` and `exported` are the figures
    of both on `dataset`, where there is one.
    """

    format: ExportFormat
    precision: Precision
    computed_in: Precision
    crops: str
    cosines: Cosines
    tolerance: float
    left_in_float: tuple[str, ...] = ()
    dataset: str | None = None
    torch: RankingFigures | None = None
    exported: RankingFigures | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def passed(self) -> bool:
        """Whether both mean cosines are within their tolerances."""
        return self.cosines.closeness >= self.tolerance

    @property
    def centred_tolerance(self) -> float:
        """The least centred mean cosine."""
        return 1.0 - CENTRED_SLACK * (1.0 - self.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        near = self.cosines
        computed = "" if self.computed_in == self.precision else f", computed in {self.computed_in} here"
        lines = [
            f"{self.format} {self.precision}{computed}, beside PyTorch fp32 on {near.count} crops ({self.crops}):",
            f"cosine mean {near.cosine_mean:.6f} (at least {self.tolerance:g}), least {near.cosine_min:.6f}; mean "
            f"without what all crops share {near.centred_mean:.6f} (at least {self.centred_tolerance:g})",
            f"largest difference {near.largest_difference:.2g} of the largest number",
        ]
        if self.left_in_float:
            lines.append(f"{len(self.left_in_float)} places left in float, where int8 hurt most")
        if self.torch and self.exported:
            pairs = (("mAP", self.torch.mAP, self.exported.mAP), ("Rank-1", self.torch.rank1, self.exported.rank1))
            figures = ", ".join(f"{name} {100 * ours:.2f} (PyTorch {100 * theirs:.2f})" for name, theirs, ours in pairs)
            lines.append(f"{self.dataset}: {figures}")
        return "\n".join(lines)


def compare_embeddings(reference: NDArray[np.float32], embeddings: NDArray[np.float32]) -> Cosines:
    """Compare embeddings (N, D) row by row with a reference (N, D), computing in float64.

    Raises:
        InputError: no rows, other shapes, or numbers that are not finite.
    """
    if reference.shape != embeddings.shape or reference.ndim != 2 or not len(reference):
        raise InputError(f"embeddings have shape {embeddings.shape}; expected {reference.shape}, one row or more.")
    ours, theirs = embeddings.astype(np.float64), reference.astype(np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise InputError("the network gives NaN or infinite numbers; its weights are damaged, or overflow.")
    cosines, common = _cosines(theirs, ours), theirs.mean(axis=0)
    return Cosines(
        count=len(cosines),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        centred_mean=float(_cosines(theirs - common, ours - common).mean()),
        largest_difference=float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), _SMALLEST)),
    )


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; 0 where one has no length."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / np.maximum(lengths, _SMALLEST))
