"""Images to embeddings: open a model, decode ahead in threads, batch, run.

In: images of any kind that images.py takes, one or many, in a list or a stream. Out: (N, D) float32 on the host, in
the order given. Memory holds a few batches of pixels, however long the list. Knows nothing of galleries or files
of embeddings.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from modelscope_reid.config import UNKNOWN_CAMERA, Activation, Layout, ModelConfig
from modelscope_reid.configuration import read_verifier
from modelscope_reid.embeddings import Embeddings, Failure, concatenate
from modelscope_reid.errors import ImageError, InputError, ReidError
from modelscope_reid.hub import bundled_model, resolve_model
from modelscope_reid.images import (
    DEFAULT_LIMITS,
    ChannelOrder,
    ImageLimits,
    ImageSource,
    crop_boxes,
    describe_source,
    is_single_image,
    load_image,
)
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.ranking.calibration import Verifier
from modelscope_reid.ranking.similarity import normalize as to_unit_length
from modelscope_reid.runtimes import Precision, Runtime, RuntimeChoice
from modelscope_reid.runtimes.exported_folder import open_exported, read_export
from modelscope_reid.runtimes.machine import usable_cores

if TYPE_CHECKING:
    from modelscope_reid.models.checkpoints import LoadReport

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class _Job:
    """One image on its way: its place, what it is, its camera, and its pixels once decoded."""

    index: int
    source: Any
    camera_id: int
    crop: Future[NDArray[np.uint8]]


class Embedder:
    """A model ready to embed.

    Safe to use from several threads. `batch_size` images go through the network at once; `decode_threads` decode
    and resize ahead of it. `report` says how the checkpoint was loaded, where there was one. `verifier` judges
    similarities as same or different people, where the model folder was calibrated.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: ModelConfig,
        *,
        report: LoadReport | None = None,
        verifier: Verifier | None = None,
        batch_size: int = 32,
        decode_threads: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected 1 or more.")
        self.runtime = runtime
        self.config = config
        self.report = report
        self.verifier = verifier
        self.batch_size = batch_size
        self.decode_threads = decode_threads or min(8, usable_cores())
        self.limits = limits

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        image_size: tuple[int, int] | None = None,
        layout: Layout | None = None,
        activation: Activation | None = None,
        revision: str | None = None,
        batch_size: int = 32,
        limits: ImageLimits = DEFAULT_LIMITS,
        runtime: RuntimeChoice = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
    ) -> Embedder:
        """Open `model`: a hub id, a model folder, an exported folder, or one checkpoint file of any known origin.

        None opens the light model that comes with the package.
        `image_size` (height, width) overrides the model's own; `layout` is ``clip-reid`` or ``1536`` for a CLIP
        ViT; `activation` is for CLIP weights that were not trained with QuickGELU.
        `runtime` is the engine; ``auto`` takes the fastest exact one, on a GPU PyTorch (see `runtimes.choice`).
        `device` is in its words: ``cpu``, ``cuda:1``. `precision` None is ``fp32``, or what a folder was exported in.
        `threads` None takes one per core that the process may use.

        Raises:
            HubError: neither a local path nor to be had from the hub.
            CheckpointError: the weights are broken, unsafe, unknown, or do not fit.
            ConfigError: the folder's configuration.json is missing or wrong.
            InputError: a library that is not installed, or a device, precision or override that cannot be had.
        """
        path = bundled_model() if model is None else resolve_model(model, revision=revision)
        verifier = read_verifier(path) if path.is_dir() else None
        if path.is_dir() and read_export(path):
            _refuse_overrides(path, image_size=image_size, layout=layout, activation=activation)
            engine, config = open_exported(path, runtime=runtime, precision=precision, device=device, threads=threads)
            return cls(engine, config, verifier=verifier, batch_size=batch_size, limits=limits)
        from modelscope_reid.models.checkpoints import load_checkpoint
        from modelscope_reid.runtimes.choice import open_runtime

        network, report = load_checkpoint(path, image_size=image_size, layout=layout, activation=activation)
        for note in report.notes:
            logger.warning("%s: %s", report.source, note)
        engine = open_runtime(network, runtime=runtime, precision=precision or "fp32", device=device, threads=threads)
        return cls(engine, network.config, report=report, verifier=verifier, batch_size=batch_size, limits=limits)

    @property
    def embedding_dim(self) -> int:
        """Numbers per image."""
        return self.config.embedding_dim

    @property
    def fingerprint(self) -> str:
        """A hash of the weights and config: embeddings compare only where it is the same."""
        return self.runtime.fingerprint

    def with_batch_size(self, batch_size: int) -> Embedder:
        """Return an embedder of the same model that runs `batch_size` images at once."""
        return Embedder(
            self.runtime,
            self.config,
            report=self.report,
            verifier=self.verifier,
            batch_size=batch_size,
            decode_threads=self.decode_threads,
            limits=self.limits,
        )

    def embed(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        normalize: bool = False,
        camera_ids: Iterable[int] | None = None,
        channel_order: ChannelOrder = "rgb",
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Return the embeddings (N, D) float32 of one image or many, in order, as the model gives them.

        `normalize` scales each to unit length. `camera_ids` gives one camera per image to a camera-aware model
        (-1: unknown). `channel_order` is that of arrays. `progress` shows a bar on stderr.

        Raises:
            ImageError: the first image that cannot be read; `embed_many` skips such images instead.
        """
        batches = self.stream(
            images, normalize=normalize, camera_ids=camera_ids, channel_order=channel_order, progress=progress
        )
        return concatenate(batches, dim=self.embedding_dim).vectors

    def embed_many(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        on_error: OnError = "skip",
        normalize: bool = False,
        camera_ids: Iterable[int] | None = None,
        channel_order: ChannelOrder = "rgb",
        progress: bool = False,
    ) -> Embeddings:
        """Embed as `embed` does, but return the good ones with their indices and the bad ones with reasons."""
        batches = self.stream(
            images,
            on_error=on_error,
            normalize=normalize,
            camera_ids=camera_ids,
            channel_order=channel_order,
            progress=progress,
        )
        return concatenate(batches, dim=self.embedding_dim)

    def embed_crops(
        self,
        frame: ImageSource,
        boxes_xyxy: ArrayLike,
        *,
        normalize: bool = False,
        channel_order: ChannelOrder = "rgb",
    ) -> NDArray[np.float32]:
        """Embed the boxes (N, 4) of one frame, decoded once: x1, y1, x2, y2 in pixels -> (N, D) float32.

        Raises:
            ImageError: the frame cannot be read.
            InputError: a box is empty, outside the frame, or not finite (it names the box).
        """
        image = load_image(frame, channel_order=channel_order, limits=self.limits)
        return self.embed(crop_boxes(image, boxes_xyxy), normalize=normalize)

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        on_error: OnError = "raise",
        normalize: bool = False,
        camera_ids: Iterable[int] | None = None,
        channel_order: ChannelOrder = "rgb",
        progress: bool = False,
    ) -> Iterator[Embeddings]:
        """Yield embeddings batch by batch while `images` is still being read; indices count from its start."""
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is {on_error!r}; expected 'raise' or 'skip'.")
        sources: Iterable[Any] = [images] if is_single_image(images) else cast("Iterable[Any]", images)
        total = len(sources) if isinstance(sources, Sized) else None
        bar = tqdm(total=total, unit="image", disable=not progress)
        with bar, ThreadPoolExecutor(self.decode_threads, thread_name_prefix="decode") as pool:
            jobs = self._decode_ahead(pool, _with_cameras(sources, camera_ids), channel_order)
            try:
                while batch := list(islice(jobs, self.batch_size)):
                    yield self._run_batch(batch, on_error=on_error, normalize=normalize)
                    bar.update(len(batch))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _decode_ahead(
        self, pool: ThreadPoolExecutor, sources: Iterator[tuple[Any, int]], channel_order: ChannelOrder
    ) -> Iterator[_Job]:
        """Yield jobs in order, with up to two batches of them being decoded beyond the one yielded."""

        def decode(source: Any) -> NDArray[np.uint8]:
            return resize(
                load_image(source, channel_order=channel_order, limits=self.limits), self.config.preprocessing
            )

        jobs = (
            _Job(index, source, camera_id, pool.submit(decode, source))
            for index, (source, camera_id) in enumerate(sources)
        )
        waiting: deque[_Job] = deque()
        while True:
            waiting.extend(islice(jobs, 2 * self.batch_size - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft()

    def _run_batch(self, batch: list[_Job], *, on_error: OnError, normalize: bool) -> Embeddings:
        """Run the network on the images of `batch` that decode; the others raise or are listed."""
        crops: list[NDArray[np.uint8]] = []
        good: list[_Job] = []
        failures: list[Failure] = []
        for job in batch:
            try:
                crops.append(job.crop.result())
                good.append(job)
            except ImageError as error:
                if on_error == "raise":
                    raise ImageError(f"image {job.index}: {error}") from error
                failures.append(Failure(index=job.index, source=describe_source(job.source), reason=str(error)))
        vectors = np.empty((0, self.embedding_dim), np.float32)
        if crops:
            camera_ids = np.array([job.camera_id for job in good], np.int64)
            vectors = self.runtime.run(to_batch(crops, self.config.preprocessing), camera_ids)
            self._check_finite(vectors, good)
        return Embeddings(
            vectors=to_unit_length(vectors) if normalize else vectors,
            indices=np.array([job.index for job in good], np.int64),
            failures=tuple(failures),
        )

    def _check_finite(self, vectors: NDArray[np.float32], jobs: list[_Job]) -> None:
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise ReidError(
                f"the model gave NaN or infinite numbers for {describe_source(jobs[bad[0]].source)}; "
                "its weights are damaged or overflow: load the checkpoint again, or another one."
            )


def _refuse_overrides(folder: Path, **overrides: object) -> None:
    """Raise `InputError` where something is given that an exported graph has built in."""
    given = [name for name, value in overrides.items() if value is not None]
    if given:
        raise InputError(
            f"{folder} is an exported folder, whose {', '.join(given)} cannot be changed; leave that out, or open and "
            "export the model that it was made from."
        )


def _with_cameras(sources: Iterable[Any], camera_ids: Iterable[int] | None) -> Iterator[tuple[Any, int]]:
    """Pair each source with its camera id, or with the unknown camera."""
    if camera_ids is None:
        return zip(sources, repeat(UNKNOWN_CAMERA), strict=False)
    return _strict_pairs(sources, camera_ids)


def _strict_pairs(sources: Iterable[Any], camera_ids: Iterable[int]) -> Iterator[tuple[Any, int]]:
    try:
        yield from zip(sources, chain(camera_ids), strict=True)
    except ValueError as error:
        raise InputError("camera_ids has another length than images; expected one camera id per image.") from error
