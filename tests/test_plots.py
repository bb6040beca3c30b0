"""Pictures of an evaluation, read back pixel by pixel: sizes, colours in their places, and that the data is in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from modelscope_reid.errors import ImageError, InputError
from modelscope_reid.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALETTE,
    QUIET,
    RED,
    RankedList,
    RankedMatch,
    draw_cmc,
    draw_embedding_map,
    draw_ranked_lists,
    draw_similarity_distribution,
    pixel_canvas,
    place,
    write,
    write_png,
)

ASSETS = Path(__file__).parents[1] / "assets"


def pixels(path: Path) -> NDArray[np.int16]:
    """The picture as (H, W, 3)."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.int16)


def where(picture: NDArray[np.int16], color: Any, tolerance: int = 12) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels of that colour."""
    wanted = ImageColor.getrgb(color) if isinstance(color, str) else color
    rows, columns = np.nonzero((abs(picture - np.array(wanted)) <= tolerance).all(axis=2))
    assert rows.size, f"no pixel of colour {color}"
    return rows, columns


def solid(path: Path, color: str, size: tuple[int, int] = (64, 128)) -> Path:
    Image.new("RGB", size, color).save(path)
    return path


# The canvas


def test_a_pixel_canvas_puts_pixels_where_they_belong(tmp_path: Path) -> None:
    stamp = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]], [[1, 2, 3], [250, 251, 252]]], np.uint8)
    figure, axes = pixel_canvas(40, 30)
    place(axes, stamp, 5, 20)
    write_png(figure, tmp_path / "stamp.png")
    picture = pixels(tmp_path / "stamp.png")
    assert picture.shape == (30, 40, 3)
    np.testing.assert_array_equal(picture[20:23, 5:7], stamp)
    picture[20:23, 5:7] = 255
    assert (picture == 255).all()


def test_text_stands_as_it_is_even_with_dollars(tmp_path: Path) -> None:
    """matplotlib takes $…$ for a formula: it would fail on this one."""
    figure, axes = pixel_canvas(400, 60)
    write(axes, 200, 10, "cost $\\frac{$ 5", size=8)
    write_png(figure, tmp_path / "text.png")
    assert (pixels(tmp_path / "text.png") < 128).any()


def test_only_png_and_only_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.png"):
        draw_cmc([0.5, 1.0], tmp_path / "cmc.jpg", mAP=0.5, title="")
    with pytest.raises(InputError, match="cannot be written"):
        draw_cmc([0.5, 1.0], tmp_path / "nowhere" / "cmc.png", mAP=0.5, title="")
    (tmp_path / "lists.png").write_bytes(b"earlier")
    row = RankedList(query=ASSETS / "person01_camera1.png", query_camera=1, average_precision=1.0, matches=())
    gone = RankedMatch(path=tmp_path / "gone.png", camera=1, similarity=0.5, correct=True)
    broken = RankedList(query=row.query, query_camera=1, average_precision=1.0, matches=(gone,))
    with pytest.raises(ImageError, match=r"gone\.png"):
        draw_ranked_lists([broken], tmp_path / "lists.png")
    assert [path.name for path in tmp_path.iterdir()] == ["lists.png"]
    assert (tmp_path / "lists.png").read_bytes() == b"earlier"


def test_no_display_and_no_state_is_needed_or_left(tmp_path: Path) -> None:
    script = (
        "import modelscope_reid.plots as plots, sys; assert 'matplotlib' not in sys.modules\n"
        "import matplotlib\n"
        "def state(): return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != 'backend'}\n"
        "before = state()\n"
        "plots.draw_cmc([0.5, 1.0], 'cmc.png', mAP=0.5, title='')\n"
        "assert state() == before and 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {"PYTHONPATH": str(ASSETS.parent), "MPLCONFIGDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert pixels(tmp_path / "cmc.png").shape == (1000, 1600, 3)


# CMC


def test_a_cmc_curve_rises_from_left_to_right(tmp_path: Path) -> None:
    draw_cmc([0.4, 0.4, 0.6, 0.8, 1.0], tmp_path / "cmc.png", mAP=0.5, title="five ranks")
    picture = pixels(tmp_path / "cmc.png")
    assert picture.shape == (1000, 1600, 3)
    rows, columns = where(picture, BLUE)
    heights = [
        rows[abs(columns - column) <= 1].mean() for column in np.linspace(columns.min() + 8, columns.max() - 8, 5)
    ]
    assert heights[0] == pytest.approx(heights[1], abs=3), "0.4 and 0.4"
    # equal steps of 0.2 from rank 2 on: equally high steps in the picture
    np.testing.assert_allclose(np.diff(heights[1:]), np.diff(heights[1:]).mean(), atol=6)
    assert heights[1] - heights[4] > 300


def test_a_cmc_picture_shows_its_figures(tmp_path: Path) -> None:
    draws = {"one": ([0.5, 1.0], 0.5, "t"), "map": ([0.5, 1.0], 0.6, "t"), "title": ([0.5, 1.0], 0.5, "u")}
    for name, (cmc, mean, title) in draws.items():
        draw_cmc(cmc, tmp_path / f"{name}.png", mAP=mean, title=title)
    one, other, title = (pixels(tmp_path / f"{name}.png") for name in draws)
    changed = np.nonzero((one != other).any(axis=2))
    assert changed[0].min() > 500 and changed[1].min() > 1000, "mAP stands at the lower right"
    assert np.nonzero((one != title).any(axis=2))[0].max() < 100, "the title stands on top"


@pytest.mark.parametrize("cmc", [[1.0], [0.0, 0.0], np.linspace(0, 1, 200)], ids=["one rank", "never", "200 ranks"])
def test_odd_cmc_curves_are_drawn(cmc: Any, tmp_path: Path) -> None:
    draw_cmc(cmc, tmp_path / "cmc.png", mAP=0.0, title="")
    where(pixels(tmp_path / "cmc.png"), BLUE)


@pytest.mark.parametrize(
    ("cmc", "mean"),
    [([], 0.5), ([[0.5]], 0.5), ([0.5, 0.4], 0.5), ([0.5, 1.1], 0.5), ([-0.1, 1], 0.5), ([np.nan], 0.5), ([0.5], 50.0)],
)
def test_a_curve_that_is_no_cmc_is_refused(cmc: Any, mean: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected"):
        draw_cmc(cmc, tmp_path / "cmc.png", mAP=mean, title="")
    assert not list(tmp_path.iterdir())


# Similarities of pairs


def test_the_sides_and_the_threshold_stand_in_their_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    same, different = 0.7 + 0.05 * generator.random(300), 0.2 + 0.05 * generator.random(5000)
    draw_similarity_distribution(same, different, tmp_path / "with.png", threshold=0.5)
    draw_similarity_distribution(same, different, tmp_path / "without.png", threshold=None)
    picture = pixels(tmp_path / "with.png")
    assert picture.shape == (1000, 1600, 3)
    below_legend = picture[400:880]
    left, right = where(below_legend, ORANGE)[1], where(below_legend, GREEN)[1]
    (threshold,) = {
        round(float(column), -1) for column in np.median(where(below_legend[:, 250:1500], INK)[1] + 250)[None]
    }
    assert left.max() < threshold < right.min()
    # 0.2 .. 0.75 spans the axis: the threshold 0.5 is at 0.3 / 0.55 of the way
    assert threshold == pytest.approx(left.min() + (right.max() - left.min()) * 0.3 / 0.55, abs=20)
    assert (
        not (abs(pixels(tmp_path / "without.png")[400:880, 250:1500] - np.array(ImageColor.getrgb(INK))) < 12)
        .all(2)
        .any()
    )


def test_each_kind_of_pair_is_a_share_of_its_own(tmp_path: Path) -> None:
    """A thousand times as many pairs of different people, and still both reach the same height: all in one bin."""
    draw_similarity_distribution([0.9] * 5, [0.1] * 5000, tmp_path / "pairs.png", threshold=0.5)
    picture = pixels(tmp_path / "pairs.png")[300:]
    assert where(picture, GREEN)[0].min() == pytest.approx(where(picture, ORANGE)[0].min(), abs=2)


def test_one_value_everywhere_is_drawn(tmp_path: Path) -> None:
    draw_similarity_distribution([1.0], [1.0], tmp_path / "pairs.png", threshold=1.0)
    where(pixels(tmp_path / "pairs.png"), GREEN)


@pytest.mark.parametrize(
    ("same", "different", "threshold", "message"),
    [
        ([], [0.1], 0.5, "same has shape"),
        ([0.1], [], 0.5, "different has shape"),
        ([np.inf], [0.1], 0.5, "finite"),
        ([0.1], [0.1], np.nan, "threshold is nan"),
    ],
)
def test_pairs_that_cannot_be_drawn(same: Any, different: Any, threshold: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        draw_similarity_distribution(same, different, tmp_path / "pairs.png", threshold=threshold)


# Ranked lists


def row_of(query: Path, matches: list[tuple[Path, bool | None]], precision: float | None = 0.5) -> RankedList:
    drawn = tuple(
        RankedMatch(path=path, camera=rank, similarity=0.9 - 0.1 * rank, correct=correct)
        for rank, (path, correct) in enumerate(matches)
    )
    return RankedList(query=query, query_camera=1, average_precision=precision, matches=drawn)


def frames(picture: NDArray[np.int16], y: int) -> list[tuple[str, int, int]]:
    """The frames that cross line y, from left to right: colour, first column, last column."""
    names = {
        ImageColor.getrgb(color): name
        for color, name in ((GREEN, "green"), (RED, "red"), (QUIET, "grey"), (INK, "ink"))
    }
    found, x = [], 0
    for color, run in groupby(map(tuple, picture[y].tolist())):
        length = len(list(run))
        if color in names and length > 40:
            found.append((names[color], x, x + length - 1))
        x += length
    return found


def test_frames_say_who_is_right(tmp_path: Path) -> None:
    crops = [solid(tmp_path / f"{color}.png", color) for color in ("yellow", "magenta", "cyan", "orange")]
    query, *gallery = crops
    draw_ranked_lists([row_of(query, list(zip(gallery, (True, False, None), strict=True)))], tmp_path / "lists.png")
    picture = pixels(tmp_path / "lists.png")
    assert picture.shape[1] == 1600
    top = int(where(picture, GREEN, 0)[0].min())
    bars = frames(picture, top + 2)
    assert [name for name, _, _ in bars] == ["ink", "green", "red", "grey"]
    widths = {last - first + 1 for _, first, last in bars}
    assert len(widths) == 1
    height = 2 * (widths.pop() - 12) + 12
    for (_, first, last), color in zip(bars, ("yellow", "magenta", "cyan", "orange"), strict=True):
        inside = picture[top + 8 : top + height - 8, first + 8 : last - 7]
        assert (abs(inside - np.array(ImageColor.getrgb(color))) <= 2).all(), f"{color} fills its frame"
        frame = picture[top : top + height, first]
        assert (frame == frame[0]).all() and (picture[top + height - 1, first : last + 1] == frame[0]).all()


def test_rows_stand_below_one_another_and_at_most_ten_matches_are_shown(tmp_path: Path) -> None:
    crop = solid(tmp_path / "crop.png", "white")
    rows = [row_of(crop, [(crop, True)] * 12, 1.0), row_of(crop, [(crop, False)] * 3, 0.1)]
    draw_ranked_lists(rows, tmp_path / "lists.png")
    picture = pixels(tmp_path / "lists.png")
    green, red = where(picture, GREEN, 0)[0], where(picture, RED, 0)[0]
    assert green.max() < red.min()
    assert [name for name, _, _ in frames(picture, green.min() + 2)] == ["ink"] + ["green"] * 10
    assert [name for name, _, _ in frames(picture, red.min() + 2)] == ["ink"] + ["red"] * 3


def test_a_wide_crop_keeps_its_proportions(tmp_path: Path) -> None:
    wide = solid(tmp_path / "wide.png", "magenta", (200, 100))
    draw_ranked_lists([row_of(solid(tmp_path / "query.png", "black"), [(wide, True)])], tmp_path / "lists.png")
    rows, columns = where(pixels(tmp_path / "lists.png"), "magenta", 2)
    assert np.ptp(columns) + 1 == pytest.approx(2 * (np.ptp(rows) + 1), abs=2)


def test_labels_cameras_similarities_and_precision_are_in_the_picture(tmp_path: Path) -> None:
    """Each change of the data changes the picture in the region where it is written, and nowhere else."""
    crop = solid(tmp_path / "crop.png", "white")

    def draw(rows: list[RankedList]) -> NDArray[np.int16]:
        draw_ranked_lists(rows, tmp_path / "lists.png")
        return pixels(tmp_path / "lists.png")

    def match(**changed: Any) -> tuple[RankedMatch, ...]:
        return (RankedMatch(**{"path": crop, "camera": 1, "similarity": 0.5, "correct": True, **changed}),)

    def row(precision: float | None, matches: tuple[RankedMatch, ...]) -> RankedList:
        return RankedList(query=crop, query_camera=1, average_precision=precision, matches=matches)

    plain = draw([row(0.5, match())])
    bottom = int(where(plain, GREEN, 0)[0].max()) - 40  # the ticks under the frames are green too
    for changed in (match(camera=2), match(similarity=0.6)):
        rows, columns = np.nonzero((draw([row(0.5, changed)]) != plain).any(axis=2))
        assert rows.min() > bottom and columns.min() > 300, "under the first match"
    rows, columns = np.nonzero((draw([row(0.6, match())]) != plain).any(axis=2))
    assert columns.max() < 148, "in the margin"
    three = draw([row(precision, match()) for precision in (0.9, 0.5, 0.1)])
    turned = draw([row(precision, match()) for precision in (0.1, 0.5, 0.9)])
    assert (np.nonzero((three != turned).any(axis=2))[1] < 148).all()
    height = (len(three) - 58) // 3
    first, middle, last = (slice(58 + height * number, 58 + height * (number + 1)) for number in range(3))
    np.testing.assert_array_equal(three[first], turned[last], "best, wherever it stands")
    np.testing.assert_array_equal(three[middle], turned[middle])
    np.testing.assert_array_equal(three[last], turned[first], "worst, wherever it stands")
    # in bold letters "best" is narrower than "worst", and "worst" than "median"
    best, median, worst = (
        where(three[rows, :148][: height // 2 - 30], INK, 60)[1].max() for rows in (first, middle, last)
    )
    assert best < worst < median


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([RankedList(query="q.png", query_camera=1, average_precision=1.0, matches=())], "has no matches"),
        ([row_of(Path("q.png"), [(Path("a.png"), True)], float("nan"))], "not finite"),
    ],
)
def test_rows_that_cannot_be_drawn(rows: list[RankedList], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        draw_ranked_lists(rows, tmp_path / "lists.png")


# The map


def crowd(
    people: int, crops: int, noise: float = 0.3
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Embeddings around one direction per person, with ids and alternating cameras."""
    generator = np.random.default_rng(0)
    persons, cameras = np.repeat(np.arange(people), crops), np.tile(np.arange(crops) % 3, people)
    return np.eye(16)[persons] + noise * generator.normal(size=(people * crops, 16)) / 4, persons, cameras


def spots(picture: NDArray[np.int16], number: int) -> NDArray[np.float64]:
    """Where the map shows that person's colour: (pixels, 2), left of the legends."""
    color = 0.85 * np.array(ImageColor.getrgb(PALETTE[number])) + 0.15 * 255
    rows, columns = where(picture[100:1060, 140:1260], color, 6)
    return np.stack([rows, columns], axis=1).astype(float)


def test_a_map_keeps_people_together(tmp_path: Path) -> None:
    vectors, persons, cameras = crowd(4, 10)
    draw_embedding_map(7 * vectors, persons, cameras, tmp_path / "map.png")
    picture = pixels(tmp_path / "map.png")
    assert picture.shape == (1200, 1600, 3)
    groups = [spots(picture, number) for number in range(4)]
    centres = np.array([group.mean(axis=0) for group in groups])
    radius = max(np.linalg.norm(group - centre, axis=1).max() for group, centre in zip(groups, centres, strict=True))
    apart = min(np.linalg.norm(a - b) for number, a in enumerate(centres) for b in centres[:number])
    assert apart > 2 * radius


def test_a_map_is_the_same_each_time_and_follows_the_data(tmp_path: Path) -> None:
    vectors, persons, cameras = crowd(3, 5)
    for name, arguments in {
        "one": (vectors, persons, cameras),
        "again": (vectors, persons, cameras),
        "moved": (vectors[::-1], persons, cameras),
        "cameras": (vectors, persons, cameras[::-1]),
    }.items():
        draw_embedding_map(*arguments, tmp_path / f"{name}.png")
    one, again, moved, turned = (pixels(tmp_path / f"{name}.png") for name in ("one", "again", "moved", "cameras"))
    np.testing.assert_array_equal(one, again)
    assert (one != moved).any() and (one != turned).any()


def test_a_map_shows_those_whom_most_cameras_saw_and_leaves_nobody_out_but_junk(tmp_path: Path) -> None:
    vectors, persons, cameras = crowd(6, 6)
    cameras[persons < 3] = 0  # people 0 to 2 were seen by one camera only
    persons[persons == 4] = -1
    keep = (persons == 3) | (persons == 5)
    draw_embedding_map(vectors, persons, cameras, tmp_path / "most.png", people=2)
    draw_embedding_map(vectors[keep], persons[keep], cameras[keep], tmp_path / "only.png")
    np.testing.assert_array_equal(pixels(tmp_path / "most.png"), pixels(tmp_path / "only.png"))


def test_more_people_than_colours_and_more_crops_than_fit(tmp_path: Path) -> None:
    vectors, persons, cameras = crowd(16, 4)
    draw_embedding_map(vectors, persons, cameras, tmp_path / "many.png", people=16)
    assert pixels(tmp_path / "many.png").shape == (1200, 1600, 3)
    vectors, persons, cameras = crowd(2, 60)
    order = np.lexsort((cameras, persons))
    few = np.concatenate(
        [order[:60][np.linspace(0, 59, 30).round().astype(int)], order[60:][np.linspace(0, 59, 30).round().astype(int)]]
    )
    draw_embedding_map(vectors, persons, cameras, tmp_path / "all.png")
    draw_embedding_map(vectors[few], persons[few], cameras[few], tmp_path / "few.png")
    np.testing.assert_array_equal(pixels(tmp_path / "all.png"), pixels(tmp_path / "few.png"))


def test_tiny_maps(tmp_path: Path) -> None:
    draw_embedding_map(np.eye(3), ["$a", "b$", "b$"], [1, 1, 2], tmp_path / "three.png")
    draw_embedding_map(np.ones((4, 2)), [1, 1, 2, 2], [1, 2, 1, 2], tmp_path / "equal.png")
    draw_embedding_map([[1.0], [2.0], [-1.0]], [1, 1, 2], [1, 2, 1], tmp_path / "one_number.png")
    assert all(pixels(path).shape == (1200, 1600, 3) for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, p, c: (v, p[1:], c, 12), "one of each per crop"),
        (lambda v, p, c: (v, p, c[None], 12), "one of each per crop"),
        (lambda v, p, c: (v * np.where(p == 1, np.nan, 1)[:, None], p, c, 12), "embedding 5 is not finite"),
        (lambda v, p, c: (v * (p != 1)[:, None], p, c, 12), "embedding 5 is of length zero"),
        (lambda v, p, c: (v, p - 9, c, 12), "0 crops of people"),
        (lambda v, p, c: (v[:2], p[:2], c[:2], 12), "2 crops of people"),
        (lambda v, p, c: (v, p, c, 0), "people is 0"),
    ],
)
def test_maps_that_cannot_be_drawn(
    change: Callable[..., tuple[Any, Any, Any, int]], message: str, tmp_path: Path
) -> None:
    vectors, persons, cameras, people = change(*crowd(3, 5))
    with pytest.raises(InputError, match=message):
        draw_embedding_map(vectors, persons, cameras, tmp_path / "map.png", people=people)
    assert not list(tmp_path.iterdir())
