"""ModelScope's face: importing this module registers our model and pipeline, and takes over the stock ones.

In and out: ModelScope's conventions (a path, URL, PIL image or BGR array in; ``{"img_embedding": (1, D) float32}``
out; a list in, a list out). Everything is done by `Embedder` and `load_checkpoint`; nothing is decided here.
Written against ModelScope 1.40.2 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import modelscope.models.cv.image_reid_person.pass_model
import modelscope.pipelines.cv.image_reid_person_pipeline  # noqa: F401  # the stock classes must be there first
import torch
from modelscope.models.base.base_torch_model import TorchModel
from modelscope.models.builder import MODELS
from modelscope.msdatasets import MsDataset
from modelscope.outputs import OutputKeys
from modelscope.pipelines.base import Pipeline
from modelscope.pipelines.builder import PIPELINES, add_default_pipeline_info

from modelscope_reid.configuration import OWN_TYPE, STOCK_MODEL_TYPE, STOCK_PIPELINE_TYPE, TASK
from modelscope_reid.embedder import Embedder
from modelscope_reid.hub import DEFAULT_MODEL_ID, resolve_model
from modelscope_reid.images import is_single_image
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.runtimes.torch_runtime import TorchRuntime


class ReidTorchModel(TorchModel):  # type: ignore[misc]  # modelscope is untyped
    """A model folder as ModelScope's `Model`: forward(images (B, 3, H, W)) -> embeddings (B, D).

    ``Model.from_pretrained(folder, use_hf=False)`` opens folders of our own type; stock PASS folders need no option.
    """

    def __init__(self, model_dir: str, **kwargs: Any) -> None:
        super().__init__(model_dir=model_dir)
        self.reid, self.report = load_checkpoint(Path(model_dir).resolve())

    def forward(self, images: torch.Tensor, camera_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Embed normalised RGB images; see `ReidModel.forward`."""
        embeddings: torch.Tensor = self.reid(images, camera_ids)
        return embeddings


class ReidPipeline(Pipeline):  # type: ignore[misc]  # modelscope is untyped
    """``pipeline("image-reid-person", model=…)``: one image or a list, truly batched.

    `model` is a hub id, a model folder, or None for ModelScope's default model. Arrays are BGR, as ModelScope
    has them.
    """

    def __init__(self, model: str | ReidTorchModel | None = None, *, batch_size: int = 32, **kwargs: Any) -> None:
        if not isinstance(model, ReidTorchModel):
            source: Any = getattr(model, "model_dir", model) or DEFAULT_MODEL_ID
            model = str(resolve_model(source))
        kwargs.setdefault("use_hf", False)
        super().__init__(model=model, auto_collate=False, **kwargs)
        network = self.model.reid
        self.embedder = Embedder(
            TorchRuntime(network, str(self.device)),
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


def _register() -> None:
    for name in (OWN_TYPE, STOCK_MODEL_TYPE):
        MODELS.register_module(TASK, module_name=name, module_cls=ReidTorchModel, force=True)
    for name in (OWN_TYPE, STOCK_PIPELINE_TYPE):
        PIPELINES.register_module(TASK, module_name=name, module_cls=ReidPipeline, force=True)
    # With None in place of the hub id, our class resolves the default model, with our error where it cannot.
    add_default_pipeline_info(TASK, STOCK_PIPELINE_TYPE, None, overwrite=True)


_register()
