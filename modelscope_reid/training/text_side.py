"""The text side of a run: towers opened once, prompts, captions, and each person's text feature.

In: a recipe's words on text, the people of the training split, and the model's joint width. Out: text features (C, P),
one per person. Knows nothing of images or loops.

Sources: CLIP-ReID (Li et al., AAAI 2023; MIT); reid-task (facts only) for captions in place of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelscope_reid.config import ClipResNetConfig, ClipVitConfig, ModelConfig
from modelscope_reid.datasets.captions import captions_by_person, captions_for, read_captions
from modelscope_reid.errors import ConfigError
from modelscope_reid.hub import resolve_model
from modelscope_reid.models.clip_text import (
    CaptionEncoder,
    PromptedText,
    caption_encoder_from_clip,
    prompted_by,
    random_caption_encoder,
    tokenize,
)
from modelscope_reid.training.caption_prompts import drawn_captions
from modelscope_reid.training.people import TrainingSplit
from modelscope_reid.training.recipe import Recipe
from modelscope_reid.training.seeds import generator_at, seed_at

TEXTS_AT_ONCE = 64
RANDOM = "random"
"""The word for a text tower that starts from random numbers beside an image tower that does not."""


class TextSide:
    """Text towers and prompts of one run; `text_features(epoch)` is what images are drawn towards."""

    def __init__(self, recipe: Recipe, split: TrainingSplit, config: ModelConfig) -> None:
        if not isinstance(config, ClipVitConfig | ClipResNetConfig):
            raise ConfigError(
                f"the recipe has a prompts or captions stage, and its backbone is a {config.family}; "
                "text needs CLIP's image towers: clip_vit_base or clip_resnet50."
            )
        self.spec = recipe.caption_texts
        self.seed = seed_at(recipe.seed, "text")
        self.people = len(split.people)
        self.encoder = _open_encoder(recipe, config, self.seed)
        found = read_captions(Path(self.spec.path)) if self.spec.path else {}
        self.captions_by_label = list(captions_by_person(split.records, found).values()) if found else []
        self.captions_by_record = captions_for(split.records, found) if found else []
        self.prompts: PromptedText | None = None
        self._features: dict[int, Tensor] = {}

    def start_prompts(self) -> PromptedText:
        """Put new prompts before the text tower as it is now."""
        self.prompts = prompted_by(self.encoder, identities=self.people, seed=self.seed)
        return self.prompts

    def state_dict(self) -> dict[str, Any]:
        """Return the towers' weights, and the prompts once there are any."""
        state: dict[str, Any] = {"encoder": self.encoder.state_dict()}
        if self.prompts is not None:
            state["prompts"] = self.prompts.prompt_learner.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.encoder.load_state_dict(state["encoder"])
        if "prompts" in state:
            self.start_prompts().prompt_learner.load_state_dict(state["prompts"])
        self._features.clear()

    def text_features(self, epoch: int) -> Tensor:
        """Return (C, P) float32 on the towers' device: of the learned prompts, or of captions drawn for this epoch."""
        drawn_at = epoch - epoch % self.spec.redraw_every if self.captions_by_label else 0
        if drawn_at not in self._features:
            self._features = {drawn_at: self._draw(drawn_at)}
        return self._features[drawn_at]

    def _draw(self, epoch: int) -> Tensor:
        device = self.encoder.token_embedding.weight.device
        # Who asks first, inside a training step or outside, is to change no bit of them.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._run(epoch, device)

    def _run(self, epoch: int, device: torch.device) -> Tensor:
        assert self.prompts is not None  # the recipe has checked that there is a prompts stage
        chunks = torch.split(torch.arange(self.people, device=device), TEXTS_AT_ONCE)
        features = torch.cat([self.prompts(chunk) for chunk in chunks])
        if self.captions_by_label:
            generator = generator_at(self.seed, "captions", epoch)
            drawn = drawn_captions(self.captions_by_label, probability=self.spec.probability, generator=generator)
            told = {label: text for label, text in enumerate(drawn) if text is not None}
            if told:
                tokens = tokenize(list(told.values()), self.encoder.text_encoder.context_length).to(device)
                features[list(told)] = torch.cat([self.encoder(chunk) for chunk in torch.split(tokens, TEXTS_AT_ONCE)])
        return features.float()


def _open_encoder(recipe: Recipe, config: ClipVitConfig | ClipResNetConfig, seed: int) -> CaptionEncoder:
    weights = recipe.model.text_weights or recipe.model.weights
    if weights is None or weights == RANDOM:
        return random_caption_encoder(
            width=recipe.model.text_width,
            depth=recipe.model.text_depth,
            projection_dim=config.projection_dim,
            seed=seed,
        )
    activation = config.activation if isinstance(config, ClipVitConfig) else "quick_gelu"
    encoder = caption_encoder_from_clip(resolve_model(weights), activation=activation)
    if encoder.text_encoder.projection_dim != config.projection_dim:
        raise ConfigError(
            f"the text tower of {weights} ends in {encoder.text_encoder.projection_dim} numbers and the image tower "
            f"in {config.projection_dim}; give model.text_weights of the same CLIP."
        )
    return encoder
