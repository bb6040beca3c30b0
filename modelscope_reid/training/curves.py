"""The picture of a run: its losses and its measurements, epoch by epoch.

In: a `History`. Out: one PNG, 1600 pixels wide, a row for each stage: losses on the left and, where the stage was
measured, mAP and Rank-1 on the right. Knows nothing of what the losses are, nor of what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelscope_reid.errors import InputError
from modelscope_reid.plots import INK, PALETTE, WIDTH, chart, pixel_canvas, write, write_png
from modelscope_reid.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED = {"mAP": "mAP", "rank1": "Rank-1"}
"""Fractions that are drawn in percent, and what they are called."""
NO_LOSSES = ("stage", "epoch", "learning_rate", "images_per_second", "seconds", "waiting_share", *MEASURED)
ROW, TOP, BELOW, FEW = 620, 100, 120, 40
"""Pixels of a stage's row, those above and below its axes, and the most epochs that are marked one by one."""


def draw_curves(history: History, path: Path, *, title: str = "") -> None:
    """Draw each stage's losses, and its mAP and Rank-1 in percent, by epoch.

    A figure that is not finite leaves a gap. Losses have their own scale in every stage.

    Raises:
        InputError: no epoch to draw, or `path` cannot be written.
    """
    stages = history.stages
    if not stages:
        raise InputError("there is no epoch to draw; train one first.")
    heading = 70 if title else 0
    height = heading + ROW * len(stages)
    figure, canvas = pixel_canvas(WIDTH, height)
    write(canvas, 0.075 * WIDTH, 24, title, size=11, ha="left", weight="bold")
    for number, stage in enumerate(stages):
        top = heading + ROW * number
        measured = [name for name in MEASURED if history.column(stage, name)[0]]
        write(canvas, 0.075 * WIDTH, top + 34, f"stage {stage}", size=9.5, ha="left", weight="bold")

        def panel(left: float, right: float, top: int = top) -> Axes:
            bottom = 1 - (top + ROW - BELOW) / height
            return chart(figure, (left, bottom, right - left, (ROW - TOP - BELOW) / height))

        losses = panel(0.075, 0.48 if measured else 0.97)
        _draw(losses, history, stage, _losses(history, stage))
        losses.set_ylabel("loss")
        if measured:
            percent = panel(0.565, 0.97)
            _draw(percent, history, stage, measured)
            percent.set_ylabel("of the people measured on (%)")
    write_png(figure, path)


def _losses(history: History, stage: str) -> list[str]:
    """Return the names of a stage's losses: their sum first, and its parts where there are two or more."""
    names = dict.fromkeys(name for row in history.rows if row["stage"] == stage for name in row)
    parts = [name for name in names if name not in (*NO_LOSSES, "loss")]
    whole = [name for name in names if name == "loss"]
    return whole + parts if len(parts) > 1 or not whole else whole


def _draw(axes: Axes, history: History, stage: str, names: Sequence[str]) -> None:
    """Draw figures by epoch, on whole epochs, from 0 up; the legend says where each stands last."""
    from matplotlib.ticker import MaxNLocator

    last = max(row["epoch"] for row in history.rows if row["stage"] == stage)
    for name, color in zip(names, _colors(len(names)), strict=True):
        epochs, column = history.column(stage, name)
        values = np.where(np.isfinite(column), column, np.nan) * (100 if name in MEASURED else 1)
        label = f"{MEASURED[name]}  {values[-1]:.1f} %" if name in MEASURED else f"{_plain(name)}  {values[-1]:.3g}"
        marker = "o" if len(epochs) <= FEW else ""
        width = 2.0 if name in ("loss", "mAP") else 1.3
        axes.plot(epochs, values, color=color, linewidth=width, marker=marker, markersize=3, label=label)
    axes.set_xlim(min(1, last - 0.5), last + (0.5 if last == 1 else 0.02 * last))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0) if low < 0 and _negative(axes) else 0, max(high, 1e-6) * 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_xlabel("epoch")
    if names:
        side = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)}
        legend = axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, ncols=4, columnspacing=1.2, **side)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _negative(axes: Axes) -> bool:
    return any(bool((np.asarray(line.get_ydata(), np.float64) < 0).any()) for line in axes.lines)


def _plain(name: str) -> str:
    return "sum" if name == "loss" else name.replace("_", " ")


def _colors(count: int) -> list[str]:
    return [PALETTE[number % len(PALETTE)] for number in range(count)]
