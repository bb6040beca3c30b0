"""Pictures of an evaluation: the CMC curve, similarities of pairs, ranked lists, a map of the embeddings.

In: plain data (numbers, arrays, paths of images). Out: one PNG file each, 1600 pixels wide, written whole or not at
all. Drawn with matplotlib's Agg canvas on figures of its own, so that no display is needed and pyplot's state is
never touched. Knows nothing of models, datasets or how the numbers came about.

Source: t-SNE (van der Maaten and Hinton, JMLR 2008), after the paper, minimised by SciPy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from modelscope_reid.errors import InputError
from modelscope_reid.files import whole_file
from modelscope_reid.images import load_image
from modelscope_reid.ranking.similarity import normalize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1600
DPI = 200
INK, QUIET, PAPER = "#22272e", "#8b949e", "#ffffff"
BLUE, ORANGE, GREEN, RED = "#2f6fb4", "#d9772b", "#1a9850", "#d73027"
PALETTE = (
    *(BLUE, ORANGE, GREEN, RED, "#7b52ab", "#8c5a3c"),
    *("#d465a8", "#6e7781", "#b0a11c", "#17a2b8", "#8fbf4d", "#1b2f5e"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "8", "H")
FRAMES: dict[bool | None, str] = {True: GREEN, False: RED, None: QUIET}
TICKS: dict[bool | None, str] = {True: "✓ %.3f", False: "✗ %.3f", None: "%.3f"}
MOST_MATCHES, FEWEST_COLUMNS, FRAME = 10, 5, 6
MOST_CROPS_PER_PERSON, MOST_IN_LEGEND, PERPLEXITY = 30, 24, 40
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC", "SimHei")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class RankedMatch:
    """One gallery image of a ranked list; `correct` is None where nobody says who it is."""

    path: PathLike
    camera: int | str
    similarity: float
    correct: bool | None


@dataclass(frozen=True, kw_only=True)
class RankedList:
    """One query and what the gallery answers, the closest first; `average_precision` is a fraction, or not known."""

    query: PathLike
    query_camera: int | str
    average_precision: float | None
    matches: tuple[RankedMatch, ...]


def draw_cmc(cmc: ArrayLike, path: PathLike, *, mAP: float, title: str) -> None:  # noqa: N803  # the field's spelling
    """Draw the share of queries whose first true match is within rank 1, 2, …, R: `cmc` (R,) in 0..1; 1600x1000.

    Raises:
        InputError: `cmc` is empty, falls, or leaves 0..1, as `mAP` does; or `path` cannot be written.
    """
    curve = _numbers(cmc, "cmc")
    if np.diff(curve, prepend=0, append=1 + 1e-9).min() < 0 or not 0 <= mAP <= 1:  # sums of fractions may pass 1 a bit
        raise InputError(f"cmc is {curve[0]:g} … {curve[-1]:g}, mAP is {mAP:g}; expected fractions, cmc rising.")
    ranks = np.arange(1, curve.size + 1)
    figure, axes = _chart(height=1000, title=title)
    axes.plot(ranks, 100 * curve, color=BLUE, linewidth=1.8, marker="o", markersize=2.4)
    floor = max(0.0, 100 * float(curve[0]) - max(5.0, 30 * float(np.ptp(curve))))
    axes.fill_between(ranks, 100 * curve, floor, color=BLUE, alpha=0.08, linewidth=0)
    named = [rank for rank in (1, 5, 10, 20) if rank <= curve.size]
    for rank in named:
        axes.plot(rank, 100 * curve[rank - 1], "o", color=BLUE, markersize=5)
    lines = [f"mAP  {100 * mAP:5.1f} %", *(f"Rank-{rank}  {100 * curve[rank - 1]:5.1f} %" for rank in named)]
    write(axes, 0.975, 0.06, "\n".join(lines), size=9, ha="right", va="bottom", transform=axes.transAxes)
    axes.set(xlabel="rank", ylabel="queries with a true match so far (%)")
    axes.set_xlim(0.5, max(curve.size + 0.5, 2))
    axes.set_ylim(floor, min(101.0, 100 * float(curve[-1]) + 3))
    ticks = (1, 5, 10, 15, 20, 30, 40, 50) if curve.size > 10 else range(1, 11)
    axes.set_xticks([rank for rank in ticks if rank <= curve.size])
    write_png(figure, path)


def draw_similarity_distribution(
    same: ArrayLike, different: ArrayLike, path: PathLike, *, threshold: float | None
) -> None:
    """Draw how similar pairs of the same person and of different people are, and the threshold; 1600x1000.

    Each histogram is a share of its own pairs, so that the few pairs of the same person are seen beside the many
    others. The legend says how many of each fall on the wrong side of the threshold.

    Raises:
        InputError: either side is empty or not finite, or `path` cannot be written.
    """
    sides = {"same person": _numbers(same, "same"), "different people": _numbers(different, "different")}
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"threshold is {threshold}; expected a cosine similarity, or None where there is none.")
    ends = [float(end) for side in sides.values() for end in (side.min(), side.max())]
    ends += [] if threshold is None else [threshold]
    edges = np.linspace(min(ends), max(*ends, min(ends) + 1e-3), 81)
    figure, axes = _chart(height=1000, title="How similar are two crops?")
    for (name, side), color in zip(sides.items(), (GREEN, ORANGE), strict=True):
        shares = 100 * np.histogram(side, edges)[0] / side.size
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.30, linewidth=0)
        axes.stairs(shares, edges, color=color, linewidth=1.4, label=_side_label(name, side, threshold))
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"threshold {threshold:.3f}")
    axes.set(xlabel="cosine similarity", ylabel="share of the pairs of each kind (%)")
    axes.margins(x=0.02)
    axes.set_ylim(0, 1.28 * axes.get_ylim()[1])
    axes.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=INK)
    write_png(figure, path)


def _side_label(name: str, side: NDArray[np.float64], threshold: float | None) -> str:
    if threshold is None:
        return f"{name}: {side.size:,} pairs"
    wrong, where = (side < threshold, "below") if name == "same person" else (side >= threshold, "at or above")
    return f"{name}: {side.size:,} pairs, {100 * np.mean(wrong):.2g} % {where} the threshold"


def draw_ranked_lists(rows: Sequence[RankedList], path: PathLike) -> None:
    """Draw each query with its first ten matches: 1600 wide, one row each.

    Frames are green for the same person, red for another, grey where nobody says; under each crop are its camera
    and its similarity to the query. Of rows with an average precision the highest is labelled best, the lowest worst
    and, of three or more, the middle one median.

    Raises:
        InputError: no rows, a row without matches, a figure that is not finite, or `path` cannot be written.
        ImageError: an image that cannot be read.
    """
    _check_rows(rows)
    longest = min(MOST_MATCHES, max(len(row.matches) for row in rows))
    left, top, gap, caption = 148, 58, 14, 74
    width = (WIDTH - left) // (1 + max(longest, FEWEST_COLUMNS)) - gap
    height = 2 * (width - 2 * FRAME) + 2 * FRAME
    figure, axes = pixel_canvas(WIDTH, top + (height + caption) * len(rows))
    for column in range(1 + longest):
        x = left + column * (width + gap) + width / 2
        write(axes, x, top - 30, str(column or "query"), size=8, color=QUIET)
    for number, (row, label) in enumerate(zip(rows, _row_labels(rows), strict=True)):
        y = top + number * (height + caption)
        write(axes, 20, y + height / 2 - 26, label, size=9, ha="left", weight="bold")
        if row.average_precision is not None:
            write(axes, 20, y + height / 2 + 10, f"AP {100 * row.average_precision:.1f} %", size=7.5, ha="left")
        cells = [(row.query, row.query_camera, INK, "")]
        for match in row.matches[:MOST_MATCHES]:
            cells.append((match.path, match.camera, FRAMES[match.correct], TICKS[match.correct] % match.similarity))
        for column, (crop, camera, color, figures) in enumerate(cells):
            x = left + column * (width + gap)
            place(axes, _framed(crop, width, height, color), x, y)
            write(axes, x + width / 2, y + height + 6, f"camera {camera}", size=6.5, color=QUIET)
            write(axes, x + width / 2, y + height + 30, figures, size=7, color=color)
    write_png(figure, path)


def _check_rows(rows: Sequence[RankedList]) -> None:
    if not rows:
        raise InputError("there are no rows to draw; give one RankedList or more.")
    for number, row in enumerate(rows):
        if not row.matches:
            raise InputError(f"row {number} ({row.query}) has no matches; leave it out.")
        figures = [row.average_precision or 0.0, *(match.similarity for match in row.matches)]
        if not np.isfinite(figures).all():
            raise InputError(f"row {number} ({row.query}) has a figure that is not finite; evaluate it again.")


def _row_labels(rows: Sequence[RankedList]) -> list[str]:
    """Return best, median and worst where the rows' average precision says so, "" elsewhere."""
    labels = [""] * len(rows)
    known = [number for number, row in enumerate(rows) if row.average_precision is not None]
    known.sort(key=lambda number: -(rows[number].average_precision or 0.0))
    if len(known) >= 2:
        labels[known[0]], labels[known[-1]] = "best", "worst"
    if len(known) >= 3:
        labels[known[len(known) // 2]] = "median"
    return labels


def _framed(path: PathLike, width: int, height: int, color: str) -> NDArray[np.uint8]:
    """Return the image, whole and in its own proportions, in a frame of six pixels: (height, width, 3)."""
    image = load_image(path)
    scale = min((width - 2 * FRAME) / image.width, (height - 2 * FRAME) / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    framed = Image.new("RGB", (width, height), color)
    framed.paste(PAPER, (FRAME, FRAME, width - FRAME, height - FRAME))
    framed.paste(image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(framed)


def draw_embedding_map(
    vectors: ArrayLike, person_ids: ArrayLike, camera_ids: ArrayLike, path: PathLike, *, people: int = 12
) -> None:
    """Draw embeddings (N, D) on a plane by t-SNE, a colour per person and a marker per camera; 1600x1200.

    Shows the `people` seen by most cameras (then with most crops, then of the lowest id), up to 30 crops each.
    Negative person ids are nobody and left out, as junk is; leave distractors out before.

    Raises:
        InputError: lengths that differ, a vector that is zero or not finite, fewer than three crops to draw,
            `people` below 1, or `path` cannot be written.
    """
    unit, persons, cameras = normalize(vectors), np.asarray(person_ids), np.asarray(camera_ids)
    if persons.shape != (len(unit),) or cameras.shape != (len(unit),):
        raise InputError(
            f"there are {len(unit)} vectors, person_ids of shape {persons.shape} and camera_ids of shape "
            f"{cameras.shape}; expected one of each per crop."
        )
    shown = _most_seen(persons, cameras, people)
    if len(shown) < 3:
        raise InputError(f"there are {len(shown)} crops of people to draw; a map needs 3 or more.")
    unit, persons, cameras = unit[shown], persons[shown], cameras[shown]
    names, seen = np.unique(persons), np.unique(cameras)
    figure, axes = _chart(height=1200, title=f"{len(shown)} crops of {len(names)} people", right=0.80)
    points, colors = _tsne(unit), _colors(len(names))
    for person, color in zip(names, colors, strict=True):
        for camera, marker in zip(seen, cycle(MARKERS), strict=False):
            x, y = points[(persons == person) & (cameras == camera)].T
            axes.scatter(x, y, color=color, marker=marker, s=26, alpha=0.85, edgecolor=PAPER, linewidth=0.5)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel("t-SNE of the cosine similarities: neighbours are meant, distances between groups are not")
    axes.margins(0.05)
    _map_legends(axes, [str(name) for name in names], colors, [str(camera) for camera in seen])
    write_png(figure, path)


def _most_seen(persons: NDArray[Any], cameras: NDArray[Any], people: int) -> NDArray[np.intp]:
    """Return the rows to draw: those of the `people` seen by most cameras, evenly chosen where they have many."""
    if people < 1:
        raise InputError(f"people is {people}; expected 1 or more.")
    known = [person for person in np.unique(persons).tolist() if not (isinstance(person, int) and person < 0)]

    def order(person: Any) -> tuple[int, int]:
        rows = persons == person
        return -len(np.unique(cameras[rows])), -int(rows.sum())

    chosen: list[NDArray[np.intp]] = [np.empty(0, np.intp)]
    for person in sorted(known, key=order)[:people]:
        rows = np.flatnonzero(persons == person)
        rows = rows[np.argsort(cameras[rows], kind="stable")]
        count = min(len(rows), MOST_CROPS_PER_PERSON)
        chosen.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.intp)])
    return np.concatenate(chosen)


def _map_legends(axes: Axes, names: list[str], colors: list[Any], cameras: list[str]) -> None:
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

    def handle(label: str, color: Any, marker: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, markersize=5, color=color, label=label)

    people = [handle(name, color, "o") for name, color in zip(names, colors, strict=True)]
    marks = [handle(name, INK, marker) for name, marker in zip(cameras, cycle(MARKERS), strict=False)]
    style: dict[str, Any] = {"fontsize": 7, "title_fontsize": 7.5, "alignment": "left", "handletextpad": 0.2}
    style |= {"loc": "upper left", "borderaxespad": 0, "frameon": False, "labelcolor": INK}
    for title, handles, x in (("person", people, 1.02), ("camera", marks, 1.14)):
        shown = handles[:MOST_IN_LEGEND]
        legend = Legend(
            axes, shown, [str(mark.get_label()) for mark in shown], title=title, bbox_to_anchor=(x, 1.0), **style
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        axes.add_artist(legend)


def _colors(count: int) -> list[Any]:
    """Return one colour per person: the palette, or as many even steps of a colour map."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    from matplotlib import colormaps

    return [tuple(color) for color in colormaps["turbo"](np.linspace(0.02, 0.95, count))]


def _tsne(unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return points (N, 2) by t-SNE of unit vectors (N, D), started from their first two principal components."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    near = _neighbour_shares(np.clip(2 - 2 * (unit @ unit.T).astype(np.float64), 0, None))

    def cost(flat: NDArray[np.float64], exaggeration: float) -> tuple[float, NDArray[np.float64]]:
        points = flat.reshape(-1, 2)
        lengths = (points**2).sum(axis=1)
        kernel = 1 / (1 + np.maximum(lengths[:, None] + lengths - 2 * points @ points.T, 0))
        np.fill_diagonal(kernel, 0)
        far = kernel / kernel.sum()
        pull = (exaggeration * near - far) * kernel
        slope = 4 * (pull.sum(axis=1, keepdims=True) * points - pull @ points)
        return -float((exaggeration * near * np.log(np.maximum(far, 1e-300))).sum()), slope.ravel()

    left, sizes, _ = np.linalg.svd(unit.astype(np.float64) - unit.mean(axis=0), full_matrices=False)
    points = np.pad(left * sizes, ((0, 0), (0, 1)))[:, :2]  # one column more, for vectors of one number
    points /= max(float(points.std()), 1e-12)
    for exaggeration, steps in ((4.0, 100), (1.0, 500)):  # first groups find together, then they spread
        points = minimize(cost, points.ravel(), (exaggeration,), "L-BFGS-B", jac=True, options={"maxiter": steps}).x
    return points.reshape(-1, 2)


def _neighbour_shares(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of its attention each point gives each other (N, N), symmetric, with sum 1."""
    count = len(squared)
    wanted = np.log(np.clip((count - 1) / 3, 2, PERPLEXITY))
    low, high = np.zeros((count, 1)), np.full((count, 1), 1e6)
    away = squared + np.diag(np.full(count, np.inf))
    away -= away.min(axis=1, keepdims=True)
    for _ in range(60):
        precision = (low + high) / 2
        shares = np.exp(-precision * away)
        shares /= shares.sum(axis=1, keepdims=True)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1, keepdims=True)
        low, high = np.where(entropy > wanted, precision, low), np.where(entropy > wanted, high, precision)
    return np.asarray((shares + shares.T) / (2 * count))


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise InputError(f"{name} has shape {numbers.shape}; expected a row of one or more finite numbers.")
    return numbers


def pixel_canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """Return an empty figure of that many pixels, and axes over all of it in pixels, y downwards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def place(axes: Axes, pixels: NDArray[np.uint8], x: int, y: int) -> None:
    """Draw pixels (H, W, 3) onto a pixel canvas, one to one, their upper left corner at (x, y)."""
    height, width = pixels.shape[:2]
    view = (axes.get_xlim(), axes.get_ylim())
    axes.imshow(pixels, extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest", zorder=2)
    axes.set(xlim=view[0], ylim=view[1])


def write(axes: Axes, x: float, y: float, text: str, *, size: float, **options: Any) -> None:
    """Write `text` as it stands, centred below (x, y); `size` in points, `options` as matplotlib's Text has them."""
    plain = {"fontsize": size, "color": INK, "ha": "center", "va": "top", "family": _fonts(), "parse_math": False}
    axes.text(x, y, text, **{**plain, **options})


@lru_cache(maxsize=1)
def _fonts() -> list[str]:
    """Return matplotlib's own font and those of this machine that also have Chinese, for names of files."""
    from matplotlib.font_manager import fontManager

    here = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in CJK_FONTS if name in here)]


def write_png(figure: Figure, path: PathLike) -> None:
    """Write the figure as one PNG, whole or not at all.

    Raises:
        InputError: `path` does not end in .png or cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise InputError(f"{target} does not end in .png, the one format of these pictures; name it so.")
    with whole_file(target) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _chart(*, height: int, title: str, right: float = 0.97) -> tuple[Figure, Axes]:
    """Return a figure of WIDTH x height and its axes, with a title on the left and no more lines than needed."""
    figure, canvas = pixel_canvas(WIDTH, height)
    write(canvas, 0.085 * WIDTH, 28, title, size=11, ha="left", weight="bold")
    return figure, chart(figure, (0.085, 130 / height, right - 0.085, 1 - 230 / height))


def chart(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Add axes to a figure at (left, bottom, width, height), fractions of it, with no more lines than needed."""
    axes = figure.add_axes(box)
    axes.set_facecolor("none")
    axes.grid(color=QUIET, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=QUIET, linewidth=0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=8.5, color=INK)
    return axes
