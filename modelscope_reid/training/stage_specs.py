"""What one stage of training is told: optimiser, batches, losses, and the three kinds of stage.

In: keyword arguments. Out: frozen dataclasses that are valid when made; a `Recipe` (recipe.py) holds them. Rates are
per optimiser step, epochs count passes over the training split. Knows nothing of files, images or loops.

Sources of the published values: PASS-reID (Apache-2.0), CLIP-ReID (MIT), TransReID (MIT), reid-task (facts only).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modelscope_reid.fields import check_fields, require, require_share
from modelscope_reid.training.augmentation_spec import Augmentation
from modelscope_reid.training.schedules import Schedule

Sampler = Literal["identity", "random", "graph"]
Classifier = Literal["linear", "arcface", "cosface", "circle"]


class Checked:
    """Base of a dataclass whose fields are checked against their annotations."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a value of a wrong type or out of range."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Checked):
    """How weights move.

    Args:
        kind: sgd, adam or adamw.
        learning_rate: The rate that the schedule scales.
        weight_decay: L2 penalty; decoupled with adamw.
        momentum: Momentum of sgd.
        bias_factor: Biases learn at so many times the rate.
        clip_gradient: Largest norm of the gradient; 0 does not limit it.
        accumulate: Batches whose gradients are added up for one step.
    """

    kind: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = 3.5e-4
    weight_decay: float = 1e-4
    momentum: float = 0.9
    bias_factor: float = 1.0
    clip_gradient: float = 0.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a rate that is not positive, or a negative decay."""
        super().__post_init__()
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; expected more than 0.")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; expected 0 or more.")
        require(0 <= self.momentum < 1, f"momentum is {self.momentum}; expected 0 or more, below 1.")
        require(self.bias_factor > 0, f"bias_factor is {self.bias_factor}; expected more than 0.")
        require(self.clip_gradient >= 0, f"clip_gradient is {self.clip_gradient}; expected 0 (off) or more.")
        require(self.accumulate >= 1, f"accumulate is {self.accumulate}; expected 1 or more.")


@dataclass(frozen=True, kw_only=True)
class BatchSpec(Checked):
    """Which images make a batch: people x images of each, over all processes together.

    Args:
        sampler: identity draws people at random, graph a person and its nearest ones, random draws single images.
        people: People in a batch (P).
        images: Images of each (K).
        graph_every: Epochs after which the graph of people is built anew.
        graph_from: Epochs of identity sampling before the first graph.
        graph_features: The graph is of image embeddings, or of CLIP-ReID's text features.
    """

    sampler: Sampler = "identity"
    people: int = 16
    images: int = 4
    graph_every: int = 1
    graph_from: int = 0
    graph_features: Literal["image", "text"] = "image"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a count that is not positive."""
        super().__post_init__()
        for name in ("people", "images", "graph_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; expected 1 or more.")
        require(self.graph_from >= 0, f"graph_from is {self.graph_from}; expected 0 or more.")

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self.people * self.images


@dataclass(frozen=True, kw_only=True)
class LossSpec(Checked):
    """What is minimised: a weighted sum. A weight of 0 leaves a loss out.

    Args:
        identity: Weight of the cross-entropy over people.
        smoothing: Share of each target that is spread over all people.
        classifier: linear, or a margin classifier on unit vectors.
        classifier_scale: Scale of a margin classifier; null is the published one.
        classifier_margin: Margin of a margin classifier; null is the published one.
        triplet: Weight of the batch-hard triplet loss.
        margin: Margin of the triplet loss; null is the soft margin.
        triplet_normalize: Compare unit vectors in the triplet loss.
        image_to_text: Weight of CLIP-ReID's image-to-text cross-entropy; needs a prompts stage.
        center: Weight of the center loss.
        center_learning_rate: Rate of the centers.
    """

    identity: float = 1.0
    smoothing: float = 0.0
    classifier: Classifier = "linear"
    classifier_scale: float | None = None
    classifier_margin: float | None = None
    triplet: float = 1.0
    margin: float | None = None
    triplet_normalize: bool = False
    image_to_text: float = 0.0
    center: float = 0.0
    center_learning_rate: float = 0.5

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a negative weight or margin, a rate or scale that is not positive, or no loss."""
        super().__post_init__()
        require_share("smoothing", self.smoothing)
        weights = [getattr(self, name) for name in ("identity", "triplet", "image_to_text", "center")]
        require(min(weights) >= 0, "the weights of losses are 0 or more; one of them is negative.")
        require(max(weights) > 0, "the weights of all losses are 0; give one of them a weight.")
        for name in ("margin", "classifier_margin"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{name} is {value}; expected 0 or more, or null.")
        for name in ("classifier_scale", "center_learning_rate"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}; expected more than 0.")


@dataclass(frozen=True, kw_only=True)
class ImageStage(Checked):
    """Train the image network: PASS's fine-tuning, CLIP-ReID's stage 2, or any backbone from the start.

    Args:
        epochs: Passes over the training split.
        optimizer: How weights move.
        schedule: How the rate changes by epoch.
        batch: Which images make a batch.
        losses: What is minimised.
        augmentation: What is done to each crop.
        average: Decay of a running average of the weights, which is then what is measured and kept; 0 is off.
        growing_sizes: Triples of first epoch, height and width: smaller crops at first, for convolutional networks.
    """

    epochs: int = 60
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: Schedule = field(default_factory=Schedule)
    batch: BatchSpec = field(default_factory=BatchSpec)
    losses: LossSpec = field(default_factory=LossSpec)
    augmentation: Augmentation = field(default_factory=Augmentation)
    average: float = 0.0
    growing_sizes: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Raise `ConfigError` for no epochs, sizes that do not start with epoch 0, or a size without a pixel."""
        super().__post_init__()
        require(self.epochs >= 1, f"epochs is {self.epochs}; expected 1 or more.")
        require(0 <= self.average < 1, f"average is {self.average}; expected 0 (off) or more, below 1.")
        starts = [size[0] for size in self.growing_sizes]
        require(
            not starts or (starts[0] == 0 and starts == sorted(set(starts))),
            f"growing_sizes starts at epochs {starts}; expected 0 first, then rising.",
        )
        for size in self.growing_sizes:
            require(min(size[1:]) >= 1, f"growing_sizes has {size}; expected (epoch, height, width), 1 pixel or more.")


@dataclass(frozen=True, kw_only=True)
class PromptStage(Checked):
    """CLIP-ReID's stage 1: learn one prompt per person, on image features that are computed once.

    Args:
        epochs: Passes over the training split.
        optimizer: How the prompts move.
        schedule: How the rate changes by epoch.
        batch_size: Images in a batch, drawn at random.
    """

    epochs: int = 120
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Raise `ConfigError` for no epochs or no batch."""
        super().__post_init__()
        require(self.epochs >= 1, f"epochs is {self.epochs}; expected 1 or more.")
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; expected 1 or more.")


@dataclass(frozen=True, kw_only=True)
class CaptionStage(Checked):
    """reid-task's stage 0: train both towers of CLIP on captioned crops.

    Args:
        epochs: Passes over the captioned images.
        optimizer: Rate of all that has no rate below.
        schedule: How the rates change by epoch.
        batch_size: Images in a batch.
        temperature: Temperature of the contrastive loss.
        encoder_learning_rate: Rate of the two encoders.
        token_learning_rate: Rate of the token embedding.
        augmentation: What is done to each crop.
    """

    epochs: int = 80
    optimizer: OptimizerSpec = field(default_factory=lambda: OptimizerSpec(kind="adamw", learning_rate=8e-5))
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 64
    temperature: float = 0.07
    encoder_learning_rate: float = 1e-5
    token_learning_rate: float = 2e-4
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a value that is not positive."""
        super().__post_init__()
        for name in ("epochs", "batch_size", "temperature", "encoder_learning_rate", "token_learning_rate"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected more than 0.")
