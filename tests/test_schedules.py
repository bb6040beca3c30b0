"""Learning rates epoch by epoch: against the published lists, timm's cosine, and rates worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.scheduler import CosineLRScheduler

from modelscope_reid.config import dataclass_from_dict
from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.training.schedules import Schedule, learning_rate

PUBLISHED = json.loads((Path(__file__).parent / "data" / "numbers_salt0.json").read_text())

CLIP_STAGE1 = Schedule(kind="cosine", warmup_epochs=5, warmup_start=1e-5 / 3.5e-4, final=1e-6 / 3.5e-4)
CLIP_STAGE2 = Schedule(kind="steps", warmup_epochs=10, warmup_start=0.1, milestones=(30, 50))
CLIP_STAGE2_RN50 = Schedule(kind="steps", warmup_epochs=10, warmup_start=0.01, milestones=(40, 70))
PASS = Schedule(kind="cosine", warmup_epochs=20, warmup_start=0.01, final=0.002)


def rates(schedule: Schedule, base: float, epochs: int) -> list[float]:
    return [learning_rate(schedule, base, epoch, epochs=epochs) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("schedule", "base", "name"),
    [
        (CLIP_STAGE1, 3.5e-4, "schedule_stage1_vit_lr_by_epoch_1_to_120"),
        (CLIP_STAGE2, 5e-6, "schedule_stage2_vit_lr_by_epoch_1_to_60"),
    ],
)
def test_parity_with_clip_reid(schedule: Schedule, base: float, name: str) -> None:
    assert rates(schedule, base, len(PUBLISHED[name])) == pytest.approx(PUBLISHED[name], rel=1e-9, abs=0)


def timm_cosine(schedule: Schedule, base: float, epochs: int) -> list[float]:
    """The rates that PASS's scheduler, timm's, gives when it is stepped at the start of epochs 1, 2, ..."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=base)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=epochs,
        lr_min=schedule.final * base,
        warmup_t=schedule.warmup_epochs,
        warmup_lr_init=schedule.warmup_start * base,
    )
    found = []
    for epoch in range(1, epochs + 1):
        scheduler.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_pass_is_timms_cosine() -> None:
    assert rates(PASS, 4e-4, 120) == pytest.approx(timm_cosine(PASS, 4e-4, 120), rel=1e-9, abs=0)


@given(
    warmup_epochs=st.integers(0, 12),
    warmup_start=st.floats(0.0, 1.0),
    final=st.floats(0.001, 1.0),
    epochs=st.integers(1, 30),
    base=st.floats(1e-7, 10.0),
)
def test_every_cosine_is_timms(warmup_epochs: int, warmup_start: float, final: float, epochs: int, base: float) -> None:
    schedule = Schedule(kind="cosine", warmup_epochs=warmup_epochs, warmup_start=warmup_start, final=final)
    assert rates(schedule, base, epochs) == pytest.approx(timm_cosine(schedule, base, epochs), rel=1e-9, abs=0)


def test_pass_by_hand() -> None:
    found = rates(PASS, 1.0, 120)
    # Warm-up from 0.01 in steps of 0.99 / 20; published epoch 20 is on the cosine already: its clock is at 20 / 120,
    # cos(30 degrees) = sqrt(3) / 2. Half way, at epoch 60, the mean of 1 and 0.002.
    assert found[0] == pytest.approx(0.01 + 0.99 / 20)
    assert found[18] == pytest.approx(1 - 0.99 / 20)
    assert found[19] == pytest.approx(0.002 + 0.998 * (1 + math.sqrt(3) / 2) / 2)
    assert found[59] == pytest.approx(0.501)
    assert found[119] == pytest.approx(0.002)


def test_rn50_stage_2_by_hand() -> None:
    found = rates(CLIP_STAGE2_RN50, 3.5e-4, 120)
    # 0.01 + 0.99 * 1 / 10 = 0.109 in the first epoch, 0.01 + 0.99 * 9 / 10 = 0.901 in the ninth, then full until
    # published epoch 39; a tenth from 40, a hundredth from 70.
    assert found[0] == pytest.approx(0.109 * 3.5e-4)
    assert found[8] == pytest.approx(0.901 * 3.5e-4)
    assert found[9:39] == [3.5e-4] * 30
    assert found[39:69] == pytest.approx([3.5e-5] * 30)
    assert found[69:] == pytest.approx([3.5e-6] * 51)


def test_constant_with_and_without_warm_up() -> None:
    assert rates(Schedule(), 0.5, 3) == [0.5, 0.5, 0.5]
    # From 0 over 4 epochs: a quarter, a half, three quarters, all.
    assert rates(Schedule(warmup_epochs=4, warmup_start=0.0), 1.0, 5) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_a_run_shorter_than_its_warm_up() -> None:
    assert rates(PASS, 1.0, 2) == pytest.approx([0.01 + 0.99 / 20, 0.01 + 0.99 / 10])


def test_past_the_last_epoch_the_cosine_stays() -> None:
    after = [learning_rate(PASS, 1.0, epoch, epochs=120) for epoch in (119, 120, 200)]
    assert after == pytest.approx([0.002] * 3)


def test_one_epoch_of_cosine_is_its_end() -> None:
    assert rates(Schedule(kind="cosine", final=0.25), 2.0, 1) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "cosin"}, "kind is 'cosin'; expected one of 'constant', 'cosine', 'steps'"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"warmup_epochs": 2.5}, "warmup_epochs is 2.5"),
        ({"warmup_epochs": True}, "warmup_epochs is True"),
        ({"warmup_start": 1.5}, "warmup_start is 1.5; expected a factor, 0 to 1"),
        ({"warmup_start": "0.1"}, "warmup_start is '0.1'"),
        ({"warmup_start": True}, "warmup_start is True"),
        ({"kind": "cosine", "final": math.nan}, "final is nan"),
        ({"kind": "cosine", "final": -0.1}, "final is -0.1"),
        ({"gamma": 10.0}, "gamma is 10.0"),
        ({"kind": "steps", "milestones": 30}, "milestones is 30; expected a tuple"),
        ({"kind": "steps", "milestones": ("30",)}, "expected a tuple of whole numbers"),
        ({"kind": "steps", "milestones": (0, 30)}, "each 1 or more"),
        ({"kind": "steps", "milestones": (50, 30)}, "ascending"),
        ({"kind": "steps", "milestones": (30, 30)}, "none twice"),
        ({"kind": "steps", "milestones": (4, 30), "warmup_epochs": 5}, "after warm-up (5 epochs)"),
        ({"kind": "steps"}, "one or more for kind 'steps'"),
        ({"kind": "cosine", "milestones": (30,)}, "none for kind 'cosine'"),
        ({"kind": "steps", "milestones": (30,), "final": 0.1}, "leave it out"),
    ],
)
def test_what_a_schedule_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize("schedule", [CLIP_STAGE1, CLIP_STAGE2, CLIP_STAGE2_RN50, PASS, Schedule()])
def test_a_schedule_survives_json(schedule: Schedule) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(schedule)))
    assert dataclass_from_dict(Schedule, values, where="schedule") == schedule


@pytest.mark.parametrize(("epoch", "epochs"), [(-1, 10), (0, 0)])
def test_no_such_epoch(epoch: int, epochs: int) -> None:
    with pytest.raises(InputError, match=f"epoch is {epoch} of {epochs}"):
        learning_rate(PASS, 1.0, epoch, epochs=epochs)


def test_a_schedule_needs_no_torch() -> None:
    code = "import modelscope_reid.training.schedules, sys; print({'torch', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
