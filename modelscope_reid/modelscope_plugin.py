"""ModelScope's face: importing it registers our model, pipeline, metric, trainer and exporter over the stock ones.

In and out: ModelScope's conventions (a path, URL, PIL image or BGR array in; ``{"img_embedding": (1, D) float32}``
out; a list in, a list out). Everything is done by `Embedder`, `load_checkpoint`, `open_exported` and `evaluation`;
nothing is decided here.
Written against ModelScope 1.40.2 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import modelscope.models.cv.image_reid_person.pass_model
import modelscope.pipelines.cv.image_reid_person_pipeline  # noqa: F401  # the stock classes must be there first
import numpy as np
import torch
from modelscope.exporters.builder import EXPORTERS
from modelscope.metrics.base import Metric
from modelscope.metrics.builder import METRICS, task_default_metrics
from modelscope.models.base.base_torch_model import TorchModel
from modelscope.models.builder import MODELS
from modelscope.msdatasets import MsDataset
from modelscope.outputs import OutputKeys
from modelscope.pipelines.base import Pipeline
from modelscope.pipelines.builder import PIPELINES, add_default_pipeline_info
from modelscope.trainers.builder import TRAINERS
from modelscope.utils.logger import get_logger

from modelscope_reid.configuration import OWN_TYPE, STOCK_MODEL_TYPE, STOCK_PIPELINE_TYPE, TASK
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.evaluation import Evaluation, Protocol, evaluate_features
from modelscope_reid.evaluation import evaluate as evaluate_embedder
from modelscope_reid.feature_store import FIELDS, LabelledFeatures
from modelscope_reid.hub import DEFAULT_MODEL_ID, resolve_model
from modelscope_reid.images import is_single_image
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.modelscope_exporter import ReidExporter
from modelscope_reid.modelscope_trainer import ReidTrainer
from modelscope_reid.ranking.report import SameCamera
from modelscope_reid.runtimes import Precision, RuntimeChoice
from modelscope_reid.runtimes.choice import open_runtime
from modelscope_reid.runtimes.exported_folder import open_exported, read_export

LABELS = FIELDS[1:]
"""What a batch of an evaluation says of its images, under "labels": the columns of a features file."""


class ReidTorchModel(TorchModel):  # type: ignore[misc]  # modelscope is untyped
    """A model folder as ModelScope's `Model`: forward(images (B, 3, H, W)) -> embeddings (B, D).

    ``Model.from_pretrained(folder, use_hf=False)`` opens folders of our own type; stock PASS folders need no option.
    """

    def __init__(self, model_dir: str, **kwargs: Any) -> None:
        super().__init__(model_dir=model_dir)
        if read_export(Path(model_dir)):
            raise InputError(f"{model_dir} is an exported folder, which has no PyTorch model; open it by pipeline().")
        self.reid, self.report = load_checkpoint(Path(model_dir).resolve())

    def forward(
        self, images: torch.Tensor, camera_ids: torch.Tensor | None = None, labels: Mapping[str, Any] | None = None
    ) -> torch.Tensor:
        """Embed normalised RGB images; see `ReidModel.forward`. `labels` are `ReidMetric`'s, and change nothing.

        They lie apart because their camera ids are the dataset's, and `camera_ids` counts from 0 as in training.
        """
        embeddings: torch.Tensor = self.reid(images, camera_ids)
        return embeddings


class ExportedModel:
    """An exported folder in the place of a ModelScope `Model`, which is PyTorch's."""

    def __init__(self, model_dir: str) -> None:
        self.model_dir = model_dir


class ReidPipeline(Pipeline):  # type: ignore[misc]  # modelscope is untyped
    """``pipeline("image-reid-person", model=…)``: one image or a list, truly batched.

    `model` is a hub id, a model folder, an exported folder, or None for ModelScope's default model. Arrays are BGR, as
    ModelScope has them. `runtime` and `precision` are `Embedder.from_pretrained`'s; by default a model runs in PyTorch
    and float32, and an exported folder as it was exported.
    """

    def __init__(
        self,
        model: str | ReidTorchModel | None = None,
        *,
        batch_size: int = 32,
        runtime: RuntimeChoice | None = None,
        precision: Precision | None = None,
        **kwargs: Any,
    ) -> None:
        opened: Any = model
        if not isinstance(model, ReidTorchModel):
            source: Any = getattr(model, "model_dir", model) or DEFAULT_MODEL_ID
            path = resolve_model(source)
            opened = ExportedModel(str(path)) if path.is_dir() and read_export(path) else str(path)
        kwargs.setdefault("use_hf", False)
        device = kwargs.get("device")
        super().__init__(model=opened, auto_collate=False, **kwargs)
        asked: dict[str, Any] = {"device": str(self.device) if device else None}
        if isinstance(self.model, ExportedModel):
            folder = Path(self.model.model_dir)
            engine, config = open_exported(folder, runtime=runtime or "auto", precision=precision, **asked)
            self.embedder = Embedder(engine, config, batch_size=batch_size)
            return
        network = self.model.reid
        self.embedder = Embedder(
            open_runtime(network, runtime=runtime or "torch", precision=precision or "fp32", **asked),
            network.config,
            report=self.model.report,
            batch_size=batch_size,
        )

    def __call__(self, input: Any, *, batch_size: int | None = None, camera_ids: Sequence[int] | None = None) -> Any:
        """Embed one image -> a dict; several (a list, an iterator, a 4-D array) -> a list; an MsDataset -> an iterator.

        An image may stand in a dict under "image". `camera_ids` gives one camera per image to a camera-aware model.
        """
        embedder = self.embedder.with_batch_size(batch_size) if batch_size else self.embedder
        single = is_single_image(input) or isinstance(input, Mapping)
        outputs = self._outputs(embedder, [input] if single else input, camera_ids)
        if isinstance(input, MsDataset):
            return outputs
        return next(outputs) if single else list(outputs)

    def _outputs(
        self, embedder: Embedder, images: Iterable[Any], camera_ids: Sequence[int] | None
    ) -> Iterator[dict[str, Any]]:
        unpacked = (image.get("image") if isinstance(image, Mapping) else image for image in images)
        for batch in embedder.stream(unpacked, camera_ids=camera_ids, channel_order="bgr"):
            for index in range(len(batch)):
                yield {OutputKeys.IMG_EMBEDDING: batch.vectors[index : index + 1]}

    def preprocess(self, inputs: Any, **kwargs: Any) -> Any:
        """Pass the input on; decoding is the embedder's."""
        return inputs

    def forward(self, inputs: Any, **kwargs: Any) -> dict[str, Any]:
        """Embed one image, for callers that go around `__call__`."""
        return {OutputKeys.IMG_EMBEDDING: self.embedder.embed(inputs, channel_order="bgr")}

    def postprocess(self, inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pass the output on."""
        return inputs


class ReidMetric(Metric):  # type: ignore[misc]  # modelscope is untyped
    """mAP, Rank-k and mINP of an `EpochBasedTrainer`'s evaluation: the metric "image-reid-person".

    A batch is ``{"images": (B, 3, H, W), "labels": {"person_ids", "camera_ids", "is_query", "paths"}}``. An image that
    is there twice, as the padding of a distributed sampler makes it, counts once.
    """

    def __init__(self, *, same_camera: SameCamera = "remove", rerank: bool = False, query_expansion: int = 0) -> None:
        super().__init__()
        self.protocol = Protocol(same_camera=same_camera, rerank=rerank, query_expansion=query_expansion)
        self.batches: list[LabelledFeatures] = []

    def add(self, outputs: Any, inputs: Mapping[str, Any]) -> None:
        """Keep a batch: embeddings (B, D), bare or under "img_embedding", and the labels of `inputs`.

        Raises:
            InputError: a label that is missing, or labels of another length than the embeddings.
        """
        labels = inputs.get("labels", {})
        missing = [name for name in LABELS if name not in labels]
        if missing:
            raise InputError(f'the batch lacks {", ".join(missing)} under "labels"; expected {", ".join(LABELS)}.')
        vectors = outputs[OutputKeys.IMG_EMBEDDING] if isinstance(outputs, Mapping) else outputs
        self.batches.append(
            LabelledFeatures(
                embeddings=torch.as_tensor(vectors).detach().float().cpu().numpy(),
                person_ids=torch.as_tensor(labels["person_ids"]).long().cpu().numpy(),
                camera_ids=torch.as_tensor(labels["camera_ids"]).long().cpu().numpy(),
                is_query=torch.as_tensor(labels["is_query"]).bool().cpu().numpy(),
                paths=np.array(labels["paths"], np.str_),
            )
        )

    def evaluate(self) -> dict[str, float | int]:
        """Return the figures by name, and log mAP and Rank-k.

        Raises:
            InputError: no batch, no query, no gallery, or no query with a true match.
        """
        if not self.batches:
            raise InputError("no batch was added; the evaluation dataset is empty.")
        columns = {name: np.concatenate([getattr(batch, name) for batch in self.batches]) for name in FIELDS}
        rows: dict[tuple[bool, str], int] = {}
        for row, image in enumerate(zip(columns["is_query"].tolist(), columns["paths"].tolist(), strict=True)):
            rows.setdefault(image, row)
        features = LabelledFeatures(**{name: column[[*rows.values()]] for name, column in columns.items()})
        given = {"dataset": {"name": TASK}}
        return _logged(evaluate_features(features, protocol=self.protocol, provenance=given)).ranking.figures()

    def merge(self, other: ReidMetric) -> None:
        """Take the batches of another process."""
        self.batches.extend(other.batches)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the trainer, which ModelScope hangs on and processes cannot send."""
        return {"protocol": self.protocol, "batches": self.batches}


def evaluate(pipeline: ReidPipeline, dataset: Dataset, **options: Any) -> Evaluation:
    """Evaluate the pipeline's model and log mAP and Rank-k; options and errors are `evaluation.evaluate`'s."""
    return _logged(evaluate_embedder(pipeline.embedder, dataset, **options))


def _logged(evaluation: Evaluation) -> Evaluation:
    get_logger().info(evaluation.summary())
    return evaluation


def _register() -> None:
    for name in (OWN_TYPE, STOCK_MODEL_TYPE):
        MODELS.register_module(TASK, module_name=name, module_cls=ReidTorchModel, force=True)
        EXPORTERS.register_module(TASK, module_name=name, module_cls=ReidExporter, force=True)
    for name in (OWN_TYPE, STOCK_PIPELINE_TYPE):
        PIPELINES.register_module(TASK, module_name=name, module_cls=ReidPipeline, force=True)
    METRICS.register_module(module_name=TASK, module_cls=ReidMetric, force=True)
    TRAINERS.register_module(module_name=TASK, module_cls=ReidTrainer, force=True)
    task_default_metrics[TASK] = [TASK]
    # With None in place of the hub id, our class resolves the default model, with our error where it cannot.
    add_default_pipeline_info(TASK, STOCK_PIPELINE_TYPE, None, overwrite=True)


_register()
