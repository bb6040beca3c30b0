"""Embed a collection of any size: from a folder or prefix anywhere to Parquet, by processes on one machine or many.

In: a source and an output, each a path or any address that fsspec opens. Out: the tables that
`distributed.collection` describes, and a `CollectionReport`. A run that was stopped goes on where it was when it is
started again; nothing is lost, and nothing is there twice. Knows nothing of galleries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from modelscope_reid.distributed.collection import (
    CollectionReport,
    Manifest,
    listing_fingerprint,
    missing_parts,
    remove_leftovers,
    start_collection,
)
from modelscope_reid.distributed.storage import Storage, StoredFile, open_storage
from modelscope_reid.distributed.workers import PartCounts, WorkerSettings, connected, embed_parts
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError, ReidError
from modelscope_reid.hub import resolve_model
from modelscope_reid.runtimes import Precision, RuntimeChoice, RuntimeName
from modelscope_reid.runtimes.machine import usable_cores


def embed_collection(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    address: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    gpus_per_worker: float = 0.0,
    batch_size: int = 32,
    images_per_part: int = 1024,
    runtime: RuntimeChoice = "auto",
    precision: Precision | None = None,
    progress: bool = False,
) -> CollectionReport:
    """Embed every image below `source` and write Parquet tables below `output`; return what was done.

    `address` None or ``local`` starts a Ray on this machine for the run; ``ray://host:10001`` or ``auto`` takes a
    cluster. `workers` processes with `threads` each embed (None: as many as there is room for), on
    `gpus_per_worker` GPUs each. Every machine must have this package, reach `source` and `output` by the same
    addresses, and `model` too where it is a path. `runtime` and `precision` as `Embedder.from_pretrained`; ``auto`` is
    settled once, for all workers.

    The sorted listing is cut into parts of `images_per_part` images, of which each is written whole or not at all.
    Images that cannot be read go to a table of their own; where the storage itself fails, the run stops. The vectors
    are, bit for bit, those that one `Embedder` gives for the sorted paths, where its batch size divides
    `images_per_part`, and it has the same runtime, precision, threads and kind of processor.

    Raises:
        InputError: no image, an address that cannot be opened, another collection in `output`, or a missing package.
        HubError, CheckpointError, ConfigError: the model cannot be opened.
        ReidError: the storage or a worker failed; starting again goes on.
    """
    began = time.monotonic()
    positive = {"threads": threads, "batch_size": batch_size, "images_per_part": images_per_part}
    _require_positive(**positive, workers=1 if workers is None else workers)
    reading, writing = open_storage(source), open_storage(output)
    files = reading.images()
    options: dict[str, Any] = {"images_per_part": images_per_part, "batch_size": batch_size, "gpus": gpus_per_worker}
    options |= {"model": model, "threads": threads, "runtime": runtime, "precision": precision}
    settings = _settings(reading, writing, files, **options)
    parts = start_collection(writing, settings.manifest, files)
    done = _embed(settings, parts, address=address, workers=workers, progress=progress)
    return _report(settings, parts, done, seconds=time.monotonic() - began)


def _settings(
    reading: Storage,
    writing: Storage,
    files: Sequence[StoredFile],
    *,
    model: str | os.PathLike[str] | None,
    runtime: RuntimeChoice,
    precision: Precision | None,
    threads: int,
    gpus: float,
    batch_size: int,
    images_per_part: int,
) -> WorkerSettings:
    """Return what every worker is told; the model is opened here once, to know it and to settle ``auto``."""
    name = _name_for_workers(model)
    embedder = Embedder.from_pretrained(
        name,
        runtime="torch" if gpus and runtime == "auto" else runtime,
        precision=None if gpus else precision,  # this machine may have no GPU to compute in half precision
        threads=threads,
        device="cpu",
    )
    manifest = Manifest(
        source=reading.address,
        listing=listing_fingerprint(files),
        images=len(files),
        images_per_part=images_per_part,
        model=embedder.fingerprint,
        embedding_dim=embedder.embedding_dim,
        precision=(precision if gpus else None) or embedder.runtime.precision,
    )
    return WorkerSettings(
        source=reading,
        output=writing,
        manifest=manifest,
        model=name,
        runtime=cast("RuntimeName", embedder.runtime.name.split()[0]),
        precision=precision,
        threads=threads,
        gpus=gpus,
        batch_size=batch_size,
    )


def _embed(
    settings: WorkerSettings, parts: Sequence[int], *, address: str | None, workers: int | None, progress: bool
) -> list[PartCounts]:
    """Let the workers embed `parts`; return the counts of each once all are on the storage."""
    done: list[PartCounts] = []
    if parts:
        cpus = max(usable_cores(), (workers or 1) * settings.threads)
        images = settings.manifest.images_in(parts)
        with connected(address, cpus=cpus), tqdm(total=images, unit="image", disable=not progress) as bar:
            for counts in embed_parts(settings, parts, workers=workers):
                done.append(counts)
                bar.update(counts.embedded + counts.failed)
        _require_whole(settings.output, settings.manifest)
    return done


def _report(
    settings: WorkerSettings, parts: Sequence[int], done: Sequence[PartCounts], *, seconds: float
) -> CollectionReport:
    manifest = settings.manifest
    return CollectionReport(
        output=settings.output.address,
        model=manifest.model,
        images=manifest.images,
        embedded=sum(counts.embedded for counts in done),
        failed=sum(counts.failed for counts in done),
        skipped=manifest.images - manifest.images_in(parts),
        parts=manifest.parts,
        seconds=seconds,
    )


def _require_whole(output: Storage, manifest: Manifest) -> None:
    """Raise ReidError where the storage lacks a part that a worker has written; tidy up where all are there."""
    if missing := missing_parts(output, manifest):
        raise ReidError(
            f"{output.url} lacks part {missing[0]}, which was written: is it one place for all machines? "
            "Start again to go on."
        )
    remove_leftovers(output)


def _name_for_workers(model: str | os.PathLike[str] | None) -> str | None:
    """Return the model by a name that holds in every process: an absolute path, or a hub id as it is."""
    if model is None or not Path(model).exists():
        return None if model is None else os.fspath(model)
    return str(resolve_model(model))


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; expected 1 or more.")
