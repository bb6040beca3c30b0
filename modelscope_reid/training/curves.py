"""The picture of a run: its losses and its measurements, epoch by epoch.

In: a `History`. Out: one PNG, 1600 pixels wide, a row for each stage: losses on the left and, where the stage was
measured, mAP and Rank-1 on the right. Knows nothing of what the losses are, nor of what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from modelscope_reid.errors import InputError
from modelscope_reid.plots import INK, PALETTE, PAPER, WIDTH, chart, pixel_canvas, write, write_png
from modelscope_reid.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED = {"mAP": "mAP", "rank1": "Rank-1"}
"""Fractions that are drawn in percent, and what they are called."""
NO_LOSSES = ("stage", "epoch", "learning_rate", "images_per_second", "seconds", "waiting_share", *MEASURED)
ROW, TOP, BELOW, FEW = 640, 90, 110, 40
"""Pixels of a stage's row, those above and below its axes, and the most epochs that are marked one by one."""


def draw_curves(history: History, path: Path, *, title: str = "") -> None:
    """Draw each stage's losses, and its mAP and Rank-1 in percent, by epoch.

    A figure that is not finite leaves a gap. Losses have a scale of their own in every stage.

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
        bottom, tall = 1 - (top + ROW - BELOW) / height, (ROW - TOP - BELOW) / height
        measured = [name for name in MEASURED if history.column(stage, name)[0]]
        write(canvas, 0.075 * WIDTH, top + 30, f"stage {stage}", size=9.5, ha="left", weight="bold")
        losses = chart(figure, (0.075, bottom, 0.405 if measured else 0.895, tall))
        _draw(losses, history, stage, _losses(history, stage))
        losses.set_ylabel("loss")
        if measured:
            percent = chart(figure, (0.565, bottom, 0.405, tall))
            _draw(percent, history, stage, measured)
            percent.set_ylabel(" and ".join(MEASURED[name] for name in measured) + " (%)")
    write_png(figure, path)


def _losses(history: History, stage: str) -> list[str]:
    """Return the names of a stage's losses: their sum first, then its parts where there are two or more."""
    names = dict.fromkeys(name for row in history.rows if row["stage"] == stage for name in row)
    parts = [name for name in names if name not in (*NO_LOSSES, "loss")]
    if "loss" not in names:
        return parts
    return ["loss", *parts] if len(parts) > 1 else ["loss"]


def _draw(axes: Axes, history: History, stage: str, names: Sequence[str]) -> None:
    """Draw figures by epoch, from 0 up; the legend says where each stands last."""
    from matplotlib.ticker import MaxNLocator

    last = max(row["epoch"] for row in history.rows if row["stage"] == stage)
    lowest, highest = 0.0, 0.0
    for number, name in enumerate(names):
        epochs, column = history.column(stage, name)
        values = np.where(np.isfinite(column), column, np.nan) * (100 if name in MEASURED else 1)
        axes.plot(
            epochs,
            values,
            color=PALETTE[number % len(PALETTE)],
            linewidth=2.0 if number == 0 else 1.3,
            marker="o" if len(epochs) <= FEW else "",
            markersize=3,
            label=_label(name, float(values[-1]), several=len(names) > 1),
        )
        lowest, highest = float(np.nanmin([lowest, *values])), float(np.nanmax([highest, *values]))
    room = 0.08 * max(highest - lowest, 1e-6)
    axes.set_ylim(lowest - (room if lowest < 0 else 0), highest + room)
    margin = 0.5 if last == 1 else 0.02 * last
    axes.set_xlim(1 - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.yaxis.get_offset_text().set(fontsize=8, color=INK)
    axes.set_xlabel("epoch")
    if names:
        place: Literal["lower right", "best"] = "lower right" if names[0] in MEASURED else "best"
        legend = axes.legend(loc=place, fontsize=7.5, labelcolor=INK, edgecolor=PAPER, facecolor=PAPER)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _label(name: str, last: float, *, several: bool) -> str:
    if name in MEASURED:
        return f"{MEASURED[name]}  {last:.1f} %"
    if name == "loss":
        return f"{'weighted sum' if several else 'loss'}  {last:.3g}"
    return f"{name.replace('_', ' ')}  {last:.3g}"
