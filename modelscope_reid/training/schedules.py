"""How the learning rate goes from epoch to epoch: a function of the epoch, with no state.

In: a `Schedule` (its rates are factors of the base rate, so that one schedule serves every parameter group), the base
rate and the epoch. Out: the rate of that epoch. Knows nothing of optimisers, and loads no torch. The rate changes
between epochs only.

As in the published code, which steps its scheduler at the start of each epoch and counts epochs from 1, the first
epoch is already one step into the warm-up, and the last one trains at the very end of the cosine. The cosine's clock
runs during warm-up, so the rate drops a little where warm-up ends.

Sources: the cosine is timm's `CosineLRScheduler` (Apache-2.0), which PASS and CLIP-ReID's first stage use; the steps
are CLIP-ReID's `WarmupMultiStepLR` (MIT). Written out here because timm's needs an optimiser to be asked for a rate,
and timm's steps come one epoch earlier than the published ones.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from modelscope_reid.errors import ConfigError, InputError

ScheduleKind: TypeAlias = Literal["constant", "cosine", "steps"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the rate changes, as factors of the base rate; how long it lasts is told to `learning_rate`.

    Args:
        kind: constant, cosine or steps.
        warmup_epochs: Epochs over which the rate rises evenly to the base rate; 0 is none.
        warmup_start: Factor before the first epoch of the warm-up.
        final: Factor at the last epoch, of kind cosine only.
        milestones: From each of these epochs on, counted from 1, the rate is multiplied by gamma once more; ascending,
            not during warm-up, of kind steps only.
        gamma: Factor at each milestone.

    Raises:
        ConfigError: a value of a wrong type or out of range, or one that the kind has no use for.
    """

    kind: ScheduleKind = "constant"
    warmup_epochs: int = 0
    warmup_start: float = 0.1
    final: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for name, expected in self._faults():
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}.")

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Yield each field that is wrong, with what was expected; a check may rely on those before it."""
        if self.kind not in get_args(ScheduleKind):
            yield "kind", f"one of {', '.join(map(repr, get_args(ScheduleKind)))}"
        if not _is_whole(self.warmup_epochs, least=0):
            yield "warmup_epochs", "a whole number, 0 (none) or more"
        for name in ("warmup_start", "final", "gamma"):
            if not _is_factor(getattr(self, name)):
                yield name, "a factor, 0 to 1"
        if not isinstance(self.milestones, tuple) or not all(_is_whole(epoch, least=1) for epoch in self.milestones):
            yield "milestones", "a tuple of whole numbers, each 1 or more"
        if list(self.milestones) != sorted(set(self.milestones)):
            yield "milestones", "ascending epochs, none twice"
        if self.milestones and self.milestones[0] < self.warmup_epochs:
            yield "milestones", f"epochs that come after warm-up ({self.warmup_epochs} epochs)"
        if (self.kind == "steps") != bool(self.milestones):
            yield "milestones", f"{'one or more' if self.kind == 'steps' else 'none'} for kind {self.kind!r}"
        if self.kind != "cosine" and self.final != 0.0:
            yield "final", f"nothing else than 0.0 for kind {self.kind!r}; leave it out"


def learning_rate(schedule: Schedule, base: float, epoch: int, *, epochs: int) -> float:
    """Return the rate that epoch `epoch`, counted from 0, of `epochs` trains at; `base` is the full rate.

    Past the last epoch a cosine stays where it ended.

    Raises:
        InputError: `epoch` below 0, or `epochs` below 1.
    """
    if epoch < 0 or epochs < 1:
        raise InputError(f"epoch is {epoch} of {epochs}; expected 0 or more, of 1 or more.")
    step = epoch + 1
    if step < schedule.warmup_epochs:
        return base * (schedule.warmup_start + (1.0 - schedule.warmup_start) * step / schedule.warmup_epochs)
    if schedule.kind == "cosine":
        remaining = (1.0 + math.cos(math.pi * min(step / epochs, 1.0))) / 2.0
        return base * (schedule.final + (1.0 - schedule.final) * remaining)
    return base * schedule.gamma ** bisect.bisect_right(schedule.milestones, step)


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_factor(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
