"""The picture of a run: what is drawn where, for one epoch, no measurement and several stages."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from modelscope_reid.errors import InputError
from modelscope_reid.training import curves
from modelscope_reid.training.curves import draw_curves
from modelscope_reid.training.history import History

BESIDES = {"learning_rate": 1e-4, "images_per_second": 300.0, "seconds": 9.0, "waiting_share": 0.1}


def history_of(*rows: tuple[str, int, dict[str, float]]) -> History:
    history = History(Path())
    for stage, epoch, figures in rows:
        history.add(stage, epoch, {**BESIDES, **figures})
    return history


def run_of_two_stages() -> History:
    prompts = [("prompts", epoch, {"loss": 8 / epoch, "contrastive": 8 / epoch}) for epoch in range(1, 7)]
    images = [
        ("images", epoch, {"loss": 9 / epoch, "identity": 6 / epoch, "triplet": 3 / epoch}) for epoch in (1, 2, 3)
    ]
    measured = [("images", epoch, {"mAP": 0.2 * epoch, "rank1": 0.3 * epoch}) for epoch in (1, 3)]
    return history_of(*prompts, *images, *measured)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written, to be asked what they show."""
    figures: list[Figure] = []
    write_png = curves.write_png

    def keep(figure: Figure, path: Any) -> None:
        figures.append(figure)
        write_png(figure, path)

    monkeypatch.setattr(curves, "write_png", keep)
    return figures


def panels(figure: Figure) -> list[Axes]:
    """The charts of a figure, by rows; the first axes are the canvas of its titles."""
    return figure.axes[1:]


def labels(axes: Axes) -> list[str]:
    return [str(line.get_label()) for line in axes.lines]


def points(axes: Axes) -> list[list[tuple[float, float]]]:
    return [list(zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)) for line in axes.lines]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_each_stage_has_its_losses_and_a_measured_one_its_measurements(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(run_of_two_stages(), tmp_path / "curves.png", title="a run")
    prompts, images, measured = panels(drawn[0])
    assert labels(prompts) == ["loss  1.33"], "one part alone is the loss again"
    assert labels(images) == ["weighted sum  3", "identity  2", "triplet  1"]
    assert labels(measured) == ["mAP  60.0 %", "Rank-1  90.0 %"]
    assert points(images)[1] == [(1, 6.0), (2, 3.0), (3, 2.0)]
    np.testing.assert_allclose(points(measured), [[(1, 20), (3, 60)], [(1, 30), (3, 90)]])
    assert measured.get_ylabel() == "mAP and Rank-1 (%)"
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["a run", "stage prompts", "stage images"]
    assert size(tmp_path / "curves.png")[0] == 1600
    # The second stage is below the first; the measurements are right of its losses.
    boxes = [axes.get_position() for axes in (prompts, images, measured)]
    assert boxes[1].y1 < boxes[0].y0 and boxes[1].x1 < boxes[2].x0
    assert boxes[1].y0 == boxes[2].y0
    assert boxes[0].x1 == pytest.approx(boxes[2].x1), "without measurements the losses take the whole row"


def test_nothing_is_outside_the_picture_or_over_another(drawn: list[Figure], tmp_path: Path) -> None:
    history = run_of_two_stages()
    for epoch in (1, 2, 3):
        history.add("images", epoch, {"image_to_text": 123456.0, "center": 0.001, "another_long_name_of_a_loss": 1.0})
    draw_curves(history, tmp_path / "curves.png", title="a run")
    figure = drawn[0]
    whole = figure.bbox
    boxes = [axes.get_tightbbox() for axes in panels(figure)]
    for number, box in enumerate(boxes):
        assert box is not None
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert not any(box.overlaps(other) for other in boxes[:number] if other is not None)
        assert not any(box.overlaps(text.get_window_extent()) for text in figure.axes[0].texts)


def test_one_epoch_is_a_point_in_the_middle(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(history_of(("images", 1, {"loss": 7.0, "mAP": 0.1, "rank1": 0.2})), tmp_path / "curves.png")
    for axes in panels(drawn[0]):
        assert axes.get_xlim() == (0.5, 1.5)
        assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
        low, high = axes.get_ylim()
        assert low == 0 and all(low < y < high for line in points(axes) for _, y in line)
        assert all(line.get_marker() == "o" for line in axes.lines), "a line of one point is not seen"


def test_without_measurements(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(history_of(("images", 1, {"loss": 7.0}), ("images", 2, {"loss": 6.0})), tmp_path / "curves.png")
    (losses,) = panels(drawn[0])
    assert points(losses) == [[(1, 7.0), (2, 6.0)]]
    without_title = size(tmp_path / "curves.png")
    draw_curves(history_of(("images", 1, {"loss": 7.0})), tmp_path / "titled.png", title="a run")
    assert size(tmp_path / "titled.png")[1] > without_title[1]


def test_many_epochs_are_a_line_with_whole_ticks(drawn: list[Figure], tmp_path: Path) -> None:
    rows = [("images", epoch, {"loss": 1.0 + 1 / epoch}) for epoch in range(1, 121)]
    draw_curves(history_of(*rows), tmp_path / "curves.png")
    (losses,) = panels(drawn[0])
    assert losses.lines[0].get_marker() == ""
    ticks = losses.get_xticks()
    assert all(tick == int(tick) for tick in ticks) and 3 <= len(ticks) <= 10
    assert losses.get_xlim()[0] < 1 and losses.get_xlim()[1] > 120


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_gap(bad: float, drawn: list[Figure], tmp_path: Path) -> None:
    rows = [("images", epoch, {"loss": value}) for epoch, value in ((1, 4.0), (2, bad), (3, 2.0))]
    draw_curves(history_of(*rows), tmp_path / "curves.png")
    (losses,) = panels(drawn[0])
    assert math.isnan(points(losses)[0][1][1])
    assert losses.get_ylim() == pytest.approx((0, 4 * 1.08))


@pytest.mark.parametrize("values", [(0.0, 0.0), (-3.0, 2.0), (math.nan, math.nan), (1e-9, 2e-9), (1e9, 1e8)])
def test_odd_losses_are_within_the_chart(values: tuple[float, ...], drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(history_of(*(("images", 1 + k, {"loss": v}) for k, v in enumerate(values))), tmp_path / "curves.png")
    (losses,) = panels(drawn[0])
    low, high = losses.get_ylim()
    assert low <= min([0.0, *(v for v in values if not math.isnan(v))])
    assert high > max([0.0, *(v for v in values if not math.isnan(v))])


def test_a_stage_without_losses(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(history_of(("images", 4, {"mAP": 0.5})), tmp_path / "curves.png")
    losses, measured = panels(drawn[0])
    assert not losses.lines
    assert labels(measured) == ["mAP  50.0 %"] and measured.get_ylabel() == "mAP (%)"


def test_names_with_dollars_stand_as_they_are(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(
        history_of(("a$\\frac{$", 1, {"loss": 1.0, "x$^{$": 2.0, "y": 1.0})), tmp_path / "curves.png", title="$\\q$"
    )
    assert (tmp_path / "curves.png").exists()
    assert labels(panels(drawn[0])[0])[1] == "x$^{$  2"


def test_nothing_to_draw_and_nowhere_to_draw_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no epoch to draw"):
        draw_curves(History(tmp_path), tmp_path / "curves.png")
    with pytest.raises(InputError, match="cannot be written"):
        draw_curves(history_of(("images", 1, {"loss": 1.0})), tmp_path / "gone" / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, modelscope_reid.training.curves; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
