"""A training run from recipe to model folder, and on from where it was stopped.

In: a recipe (or the folder of a run), and where to write. Out: the run folder, its model and its report. Knows nothing
of the command line.

The path of a run: `read_dataset` -> `training_split` -> each stage of stages.py, trained by `run_stage` with
checkpoints -> what the stage hands on, in stages/ -> model/ -> report/. A stopped run takes the same path, past the
stages that have handed on their weights and into the one whose checkpoint is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelscope_reid.datasets.readers import read_dataset
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.evaluation import Evaluation, evaluate
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.curves import draw_curves
from modelscope_reid.training.history import CURVES_FILE, read_history
from modelscope_reid.training.loop import processes, training_device
from modelscope_reid.training.people import TrainingSplit, training_split
from modelscope_reid.training.recipe import Recipe
from modelscope_reid.training.recipe_files import read_recipe
from modelscope_reid.training.run_folder import RunFolder
from modelscope_reid.training.stages import RunContext, run_images, start_model
from modelscope_reid.training.text_side import TextSide
from modelscope_reid.training.text_stages import run_captions, run_prompts

MAY_CHANGE = ("data.root", "data.workers", "data.cache")
"""Fields that a resumed run may be told anew: none of them changes a weight."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: its folder, its model folder, and the evaluation where the dataset has queries and a gallery."""

    folder: Path
    model: Path
    evaluation: Evaluation | None

    def summary(self) -> str:
        """Return what the command prints."""
        measured = f"\n{self.evaluation.summary()}" if self.evaluation else ""
        return f"{self.model}: trained{measured}"


def train(
    recipe: str | Path,
    *,
    output: str | Path,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: bool = False,
) -> TrainingResult:
    """Train by the recipe of that name, or the YAML file at that path, into the new folder `output`.

    `overrides` replace single fields, such as ``{"data.root": "Market-1501", "images.epochs": 10}``. `device` is
    ``cpu``, ``cuda`` or ``cuda:1``; None takes the first GPU where there is one. `progress` shows a bar on stderr.

    Raises:
        ConfigError: an unknown recipe or field, or a value out of range or at odds with another.
        InputError: a dataset that is not there or cannot fill a batch; an output folder that holds a run.
        TrainingError: a loss that is not finite.
        CheckpointError, HubError: weights that cannot be opened, or do not fit.
    """
    told = read_recipe(recipe, overrides)
    dataset = _dataset(told)
    split = _split(told, dataset)
    context_device = training_device(device)
    run = RunFolder(Path(output))
    if processes()[0] == 0:
        run.start(told, dataset, split.people)
        if split.measured is not None and split.measured is not dataset:
            run.write_held_out(split.measured)
    history = read_history(run.folder)
    return _run(RunContext(told, run, split, context_device, history, progress), dataset)


def resume(
    folder: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: bool = False,
) -> TrainingResult:
    """Go on with the run in `folder`: on the CPU, and as many threads, to the same weights as without the stop.

    Raises:
        InputError: there is no run; ConfigError: an override that could change its weights.
        TrainingError: the dataset has changed since, with the difference; else as `train`.
    """
    changed = [name for name in overrides or {} if name not in MAY_CHANGE]
    if changed:
        raise ConfigError(
            f"{changed[0]} was given, and a resumed run keeps its recipe (only {', '.join(MAY_CHANGE)} may change); "
            "leave it out, or start a new run."
        )
    run = RunFolder.reopen(Path(folder))
    told = run.recipe(overrides)
    dataset = _dataset(told)
    run.check_dataset(dataset)
    split = _split(told, dataset)
    history = read_history(run.folder)
    return _run(RunContext(told, run, split, training_device(device), history, progress), dataset)


def _dataset(recipe: Recipe) -> Dataset:
    if recipe.data.root is None:
        raise InputError("data.root is not given; name the folder of the dataset with --data.root.")
    return read_dataset(recipe.data.dataset, recipe.data.root)


def _split(recipe: Recipe, dataset: Dataset) -> TrainingSplit:
    return training_split(
        dataset,
        held_out_people=recipe.data.held_out_people,
        seed=recipe.seed,
        on_test=recipe.evaluation.split == "test",
    )


def _run(context: RunContext, dataset: Dataset) -> TrainingResult:
    recipe, run = context.recipe, context.run
    model = start_model(context)
    text = TextSide(recipe, context.split, model.config) if recipe.prompts or recipe.captions else None
    for stage in recipe.stages:
        if run.finished(stage):
            _take(run.handed_on(stage), model, text)
            continue
        if stage == "images":
            model = run_images(context, text.text_features if recipe.prompts and text else None, model)
        elif text:
            {"captions": run_captions, "prompts": run_prompts}[stage](context, model, text)
        if processes()[0] == 0:
            run.finish(stage, _handed_on(model, text))
            draw_curves(context.history, run.folder / CURVES_FILE)
    return _result(context, model, dataset)


def _handed_on(model: ReidModel, text: TextSide | None) -> dict[str, Any]:
    return {"model": model.state_dict(), "text": text.state_dict() if text else {}}


def _take(state: Mapping[str, Any], model: ReidModel, text: TextSide | None) -> None:
    model.load_state_dict(state["model"])
    if text:
        text.load_state_dict(state["text"])


def _result(context: RunContext, model: ReidModel, dataset: Dataset) -> TrainingResult:
    """Write the model folder and the report, on the first process."""
    run = context.run
    if processes()[0] != 0:
        return TrainingResult(run.folder, run.model, None)
    if context.recipe.evaluation.keep == "best" and run.best.exists():
        model = load_checkpoint(run.best)[0]
    save_pretrained(model, run.model)
    if not (context.recipe.evaluation.report and dataset.query and dataset.gallery):
        return TrainingResult(run.folder, run.model, None)
    embedder = Embedder.from_pretrained(run.model, device=str(context.device), runtime="torch")
    return TrainingResult(run.folder, run.model, evaluate(embedder, dataset, output=run.report))
