"""What an optimiser, a batch, a loss and each kind of stage can be told."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import dataclass_from_dict
from modelscope_reid.training.schedules import Schedule
from modelscope_reid.training.stage_specs import (
    BatchSpec,
    CaptionStage,
    ImageStage,
    LossSpec,
    OptimizerSpec,
    PromptStage,
)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (OptimizerSpec, {"kind": "lion"}, "kind is 'lion'; expected one of 'sgd', 'adam', 'adamw'"),
        (OptimizerSpec, {"learning_rate": 0.0}, "learning_rate is 0.0; expected more than 0"),
        (OptimizerSpec, {"learning_rate": math.nan}, "learning_rate is nan; expected a number"),
        (OptimizerSpec, {"learning_rate": "1e-4"}, "learning_rate is '1e-4'; expected a number"),
        (OptimizerSpec, {"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        (OptimizerSpec, {"momentum": 1.0}, "momentum is 1.0; expected 0 or more, below 1"),
        (OptimizerSpec, {"momentum": -0.1}, "momentum is -0.1"),
        (OptimizerSpec, {"bias_factor": 0.0}, "bias_factor is 0.0"),
        (OptimizerSpec, {"clip_gradient": -1.0}, "clip_gradient is -1.0; expected 0 (off) or more"),
        (OptimizerSpec, {"accumulate": 0}, "accumulate is 0; expected 1 or more"),
        (OptimizerSpec, {"accumulate": 2.0}, "accumulate is 2.0; expected a whole number"),
        (BatchSpec, {"sampler": "triplet"}, "sampler is 'triplet'; expected one of 'identity', 'random', 'graph'"),
        (BatchSpec, {"people": 0}, "people is 0; expected 1 or more"),
        (BatchSpec, {"images": 0}, "images is 0; expected 1 or more"),
        (BatchSpec, {"graph_every": 0}, "graph_every is 0; expected 1 or more"),
        (BatchSpec, {"graph_from": -1}, "graph_from is -1; expected 0 or more"),
        (BatchSpec, {"graph_features": "both"}, "graph_features is 'both'; expected one of 'image', 'text'"),
        (LossSpec, {"smoothing": 1.5}, "smoothing is 1.5; expected 0 to 1"),
        (LossSpec, {"triplet": -1.0}, "one of them is negative"),
        (LossSpec, {"identity": 0.0, "triplet": 0.0}, "all losses are 0; give one of them a weight"),
        (LossSpec, {"margin": -0.3}, "margin is -0.3; expected 0 or more, or null"),
        (LossSpec, {"classifier_margin": -0.3}, "classifier_margin is -0.3"),
        (LossSpec, {"classifier_scale": 0.0}, "classifier_scale is 0.0; expected more than 0"),
        (LossSpec, {"center_learning_rate": 0.0}, "center_learning_rate is 0.0; expected more than 0"),
        (LossSpec, {"classifier": "softmax"}, "classifier is 'softmax'; expected one of 'linear', 'arcface'"),
        (ImageStage, {"epochs": 0}, "epochs is 0; expected 1 or more"),
        (ImageStage, {"average": 1.0}, "average is 1.0; expected 0 (off) or more, below 1"),
        (ImageStage, {"growing_sizes": 5}, "growing_sizes is 5; expected values, each 3 values, each a whole number"),
        (ImageStage, {"growing_sizes": (0, 128, 64)}, "growing_sizes is (0, 128, 64); expected values, each 3 values"),
        (ImageStage, {"growing_sizes": ((0, 128),)}, "growing_sizes is ((0, 128),); expected values, each 3 values"),
        (ImageStage, {"growing_sizes": ((5, 128, 64),)}, "starts at epochs [5]; expected 0 first, then rising"),
        (ImageStage, {"growing_sizes": ((0, 8, 8), (4, 9, 9), (4, 9, 9))}, "starts at epochs [0, 4, 4]"),
        (ImageStage, {"growing_sizes": ((0, 8, 8), (6, 9, 9), (4, 9, 9))}, "starts at epochs [0, 6, 4]"),
        (ImageStage, {"growing_sizes": ((0, 128, 0),)}, "growing_sizes has (0, 128, 0)"),
        (ImageStage, {"optimizer": None}, "optimizer is None; expected a OptimizerSpec"),
        (PromptStage, {"epochs": 0}, "epochs is 0; expected 1 or more"),
        (PromptStage, {"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        (CaptionStage, {"epochs": 0}, "epochs is 0; expected more than 0"),
        (CaptionStage, {"batch_size": 0}, "batch_size is 0; expected more than 0"),
        (CaptionStage, {"temperature": 0.0}, "temperature is 0.0; expected more than 0"),
        (CaptionStage, {"encoder_learning_rate": 0.0}, "encoder_learning_rate is 0.0"),
        (CaptionStage, {"token_learning_rate": -1.0}, "token_learning_rate is -1.0"),
    ],
)
def test_what_they_cannot_be(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (OptimizerSpec, {"weight_decay": 0, "momentum": 0, "clip_gradient": 1.0, "accumulate": 4}),
        (BatchSpec, {"people": 1, "images": 1, "sampler": "graph", "graph_from": 30, "graph_every": 5}),
        (LossSpec, {"identity": 0.0, "triplet": 0.0, "center": 5e-4}),
        (LossSpec, {"margin": 0.0, "classifier": "arcface", "classifier_scale": 16.0, "classifier_margin": 0.0}),
        (ImageStage, {"growing_sizes": ((0, 128, 64), (40, 256, 128))}),
    ],
)
def test_what_they_can_be(kind: type, values: dict[str, Any]) -> None:
    spec = kind(**values)
    assert {name: getattr(spec, name) for name in values} == values


def test_a_batch_is_people_times_images() -> None:
    assert BatchSpec(people=3, images=5).size == 15


def test_captions_are_learned_by_reid_tasks_rates() -> None:
    # AdamW 8e-5, encoders 1e-5, token embedding 2e-4, 80 epochs, temperature 0.07: compatibility.md.
    stage = CaptionStage()
    assert (stage.optimizer.kind, stage.optimizer.learning_rate) == ("adamw", 8e-5)
    assert (stage.encoder_learning_rate, stage.token_learning_rate) == (1e-5, 2e-4)
    assert (stage.epochs, stage.temperature) == (80, 0.07)


@pytest.mark.parametrize(
    "stage",
    [
        ImageStage(
            schedule=Schedule(kind="steps", milestones=(3, 5)),
            growing_sizes=((0, 128, 64), (2, 256, 128)),
            losses=LossSpec(margin=0.3, center=1.0),
        ),
        PromptStage(optimizer=OptimizerSpec(learning_rate=1e-3)),
        CaptionStage(schedule=Schedule(kind="cosine", final=0.5)),
    ],
    ids=["images", "prompts", "captions"],
)
def test_a_stage_survives_json(stage: Any) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(stage)))
    assert dataclass_from_dict(type(stage), values, where="stage") == stage
