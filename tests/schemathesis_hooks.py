"""What schemathesis sends as images: small drawn crops.

Schemathesis imports this where SCHEMATHESIS_HOOKS names it.
"""

from __future__ import annotations

import io

import schemathesis
from hypothesis import strategies

from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.synthetic import draw_crop, sample_camera


def _small(person: int) -> bytes:
    file = io.BytesIO()
    draw_crop(sample_appearance(person), sample_camera(0), seed=person, size=(8, 4)).save(file, "PNG")
    return file.getvalue()


schemathesis.openapi.format("binary", strategies.sampled_from([_small(person) for person in range(8)]))
