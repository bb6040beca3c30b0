"""One except clause for a user's mistakes, and the builtin kinds that others catch."""

from __future__ import annotations

import inspect
import pickle

import pytest

import modelscope_reid
from modelscope_reid import errors

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind is not errors.ReidError]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_reid_error_and_takes_one_text(kind: type[errors.ReidError]) -> None:
    again = kind("given; expected; do")
    assert isinstance(again, errors.ReidError)
    assert str(type(again)(str(again))) == "given; expected; do"  # how ModelScope raises it again
    copied = pickle.loads(pickle.dumps(again))  # how worker processes send it
    assert (type(copied), str(copied)) == (kind, str(again))
    assert getattr(modelscope_reid, kind.__name__) is kind


def test_builtin_kinds() -> None:
    assert issubclass(errors.HubError, OSError)
    for kind in (errors.ConfigError, errors.ImageError, errors.CheckpointError, errors.InputError):
        assert issubclass(kind, ValueError)
