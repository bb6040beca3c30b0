"""Every random number of a run follows from its seed and the place in the run where it is drawn.

In: the run's seed and a place, such as (stage, epoch, batch). Out: a seed. No generator lives longer than one batch,
so that a resumed run, or one with more workers, draws the same numbers without any generator being saved.
"""

from __future__ import annotations

import zlib

import numpy as np


def seed_at(seed: int, *place: int | str) -> int:
    """Return the 63-bit seed of a place in the run."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in place]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator_at(seed: int, *place: int | str) -> np.random.Generator:
    """Return a NumPy generator for a place in the run."""
    return np.random.default_rng(seed_at(seed, *place))
