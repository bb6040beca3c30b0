"""What OpenAPI says of answers is what the gallery's nouns give."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from modelscope_reid.app.answers import (
    PROBLEMS,
    EnrollAnswer,
    FailureAnswer,
    IdentifyResult,
    MatchAnswer,
    Problem,
    problems,
)
from modelscope_reid.embeddings import Failure
from modelscope_reid.gallery.entries import Enrolment, Entry, Identity, Match

MATCH = Match(entry=Entry(key="k", person_id="p"), similarity=0.5, decision="unsure", probability=0.4)
FAILURE = Failure(index=0, source="a", reason="b")


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (MatchAnswer, MATCH.to_dict()),
        (IdentifyResult, {"query": "q", **Identity(person_id=None, similarity=0.5, matches=(MATCH,)).to_dict()}),
        (FailureAnswer, FAILURE.to_dict()),
        (EnrollAnswer, Enrolment(added=1, known=2, failures=(FAILURE,)).to_dict()),
    ],
)
def test_a_noun_fits_its_description_field_by_field(model: type[BaseModel], values: dict[str, object]) -> None:
    assert model.model_validate(values, strict=True).model_dump() == values
    assert set(values) == set(model.model_fields)


def test_a_problem_is_one_sentence() -> None:
    assert problems(400, 503) == {
        400: {"model": Problem, "description": PROBLEMS[400]},
        503: {"model": Problem, "description": PROBLEMS[503]},
    }
    with pytest.raises(ValidationError):
        Problem.model_validate({"detail": [{"msg": "several"}]})
