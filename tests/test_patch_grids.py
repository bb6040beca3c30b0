"""From numbers of patches to sizes and grids, against compatibility figures and geometry worked out by hand."""

from __future__ import annotations

import pytest

from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.patch_grids import grid_of, patches_to_size


@pytest.mark.parametrize(
    ("patches", "size", "stride", "grid"),
    [
        (16 * 8, (256, 128), 16, (16, 8)),
        (24 * 8, (384, 128), 16, (24, 8)),
        (21 * 10, (256, 128), 12, (21, 10)),
        (31 * 10, (384, 128), 12, (31, 10)),
        (14 * 7, (224, 112), 16, (14, 7)),
        (4 * 2, (64, 32), 16, (4, 2)),
    ],
)
def test_published_patch_counts_tell_the_size(
    patches: int, size: tuple[int, int], stride: int, grid: tuple[int, int]
) -> None:
    assert patches_to_size(patches) == (size, stride)
    assert grid_of(patches) == grid


@pytest.mark.parametrize(("patches", "side"), [(49, 7), (196, 14), (256, 16), (576, 24)])
def test_squares_are_clips_own(patches: int, side: int) -> None:
    assert patches_to_size(patches) is None
    assert grid_of(patches) == (side, side)


def test_other_patch_counts_are_refused_with_a_way_out() -> None:
    with pytest.raises(CheckpointError, match=r"has 77 patches.*256x128.*configuration\.json states SIZE_TEST"):
        grid_of(77)
