"""ModelScope's face of training: ``build_trainer("image-reid-person", dict(recipe=…, data_root=…, work_dir=…))``.

In and out: ModelScope's conventions (arguments in a dict; `train`, then `evaluate`, which gives figures by name).
Everything is done by training/ and evaluation.py; nothing is decided here. modelscope_plugin.py registers it. Written
against ModelScope 1.40.2 (Apache-2.0). Lightning is loaded by `train` alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelscope.trainers.base import BaseTrainer
from modelscope.utils.logger import get_logger

from modelscope_reid.errors import InputError
from modelscope_reid.fields import nearest

if TYPE_CHECKING:
    from modelscope_reid.training.training_run import TrainingResult

FIELDS = {"model": "model.weights", "dataset": "data.dataset", "data_root": "data.root", "seed": "seed"}
"""Arguments that are a field of the recipe, and which."""
ARGUMENTS = ("recipe", *FIELDS, "work_dir", "resume_from", "device", "overrides", "progress")


class ReidTrainer(BaseTrainer):  # type: ignore[misc]  # modelscope is untyped
    """A run of training: a recipe, changes to it, and the folder `work_dir` that it is written into.

    `recipe` is a name or a YAML file; `model` is what to start from: a hub id, a model folder or a checkpoint;
    `dataset` and `data_root` say what to train on. `overrides`, and further arguments with a dot in their names, are
    fields of the recipe: ``{"images.epochs": 10}``. `resume_from` is the folder of a run to go on with, in place of
    `recipe` and `work_dir`.

    Raises:
        InputError: an argument that is missing, unknown, or has no use beside another.
    """

    def __init__(
        self,
        *,
        recipe: str | os.PathLike[str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        device: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        progress: bool = False,
        **arguments: Any,
    ) -> None:
        # BaseTrainer's own __init__ reads ModelScope's configuration file; the recipe is in its place.
        arguments.pop("trust_remote_code", None)  # build_trainer adds it; no code of a model is run here
        self.overrides = {**(overrides or {}), **_recipe_fields(arguments)}
        if resume_from and (recipe or work_dir):
            raise InputError("resume_from goes on in its own folder, by its own recipe; leave recipe and work_dir out.")
        if not resume_from and not (recipe and work_dir):
            raise InputError("recipe and work_dir are needed (a name or a YAML file; a new folder), or resume_from.")
        self.recipe = recipe
        self.resume = resume_from is not None
        self.folder = Path(resume_from or work_dir or "")
        self.device, self.progress = device, progress
        self.result: TrainingResult | None = None

    def train(self, *args: Any, **kwargs: Any) -> TrainingResult:
        """Train, and return the result: the run folder, the model folder, and its evaluation.

        Raises:
            ConfigError, InputError, TrainingError, CheckpointError, HubError: as `training_run.train` has them.
        """
        from modelscope_reid.training import training_run

        options: dict[str, Any] = {"overrides": self.overrides, "device": self.device, "progress": self.progress}
        if self.resume:
            self.result = training_run.resume(self.folder, **options)
        else:
            self.result = training_run.train(Path(self.recipe or ""), output=self.folder, **options)
        get_logger().info(self.result.summary())
        return self.result

    def evaluate(self, checkpoint_path: str | None = None, *args: Any, **kwargs: Any) -> dict[str, float | int]:
        """Return the figures by name of the trained model, or of another one, on the dataset's queries and gallery.

        Raises:
            InputError: nothing was trained yet and no `checkpoint_path` was given; the dataset has no queries.
        """
        from modelscope_reid.datasets.readers import read_dataset
        from modelscope_reid.embedder import Embedder
        from modelscope_reid.evaluation import evaluate
        from modelscope_reid.training.recipe_files import read_recipe
        from modelscope_reid.training.run_folder import RECIPE_FILE, RunFolder

        if checkpoint_path is None and self.result and self.result.evaluation:
            return self.result.evaluation.ranking.figures()
        run = RunFolder(self.folder)
        if checkpoint_path is None and not run.model.exists():
            raise InputError(f"{self.folder} has no trained model yet; call train() first, or give checkpoint_path.")
        started = self.folder / RECIPE_FILE
        data = read_recipe(started if started.exists() else Path(self.recipe or ""), self.overrides).data
        if data.root is None:
            raise InputError("data_root is not given; name the folder of the dataset.")
        embedder = Embedder.from_pretrained(checkpoint_path or run.model, device=self.device, runtime="torch")
        return evaluate(embedder, read_dataset(data.dataset, data.root)).ranking.figures()


def _recipe_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as fields of the recipe, by dotted name; None is not given."""
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in FIELDS and "." not in name:
            raise InputError(
                f"the trainer has no argument {name!r}{nearest(name, ARGUMENTS)} (it has {', '.join(ARGUMENTS)}, and "
                "the recipe's fields by dotted name)."
            )
        if value is not None:
            is_path = isinstance(value, os.PathLike)
            fields[FIELDS.get(name, name)] = os.fspath(value) if is_path else value
    return fields
