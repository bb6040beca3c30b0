"""Ray: a pool of processes on this machine or a cluster, each with an embedder of its own, and one part at a time.

In: which parts of a collection to embed, and with what. Out: per part how many images were embedded and failed; the
vectors go from the workers straight to the storage. A worker that dies is started again, and its part with it. Knows
nothing of how a collection is listed and checked.

Ray Core's actor pool and not Ray Data, because Ray Data does not run through a Ray client (``ray://``), and names its
output files by itself, so that a run could not go on where another one stopped. Written against Ray 2.60 (Apache-2.0).
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelscope_reid import __version__
from modelscope_reid.distributed.collection import Listing, Manifest, write_part
from modelscope_reid.distributed.storage import MISSING, Storage, StoredFile
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError, ReidError
from modelscope_reid.libraries import require_library
from modelscope_reid.runtimes import Precision, RuntimeChoice

if TYPE_CHECKING:
    from types import ModuleType

LOCAL = "local"
CONNECT_SECONDS = 5.0
PART_RETRIES = 5
"""How often a part is begun again after the death of its worker, before the run stops."""
_OBJECT_STORE_BYTES = 100 * 2**20  # a local Ray's; only numbers of parts and counts go through it

# For a Ray of our own: no statistics to its makers, and workers as quick as any other process, where Ray would have
# them give way to everything else on the machine.
_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# A secret of this process's own, where Ray would write one into the user's home. Ray reads it when it is imported.
_LOCAL_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker needs: where to read and write, a name of the model that every machine resolves, and how to run it.

    A worker that finds another model than `manifest` states, or has another `version` of this package, refuses to work.
    """

    source: Storage
    output: Storage
    manifest: Manifest
    model: str | None
    runtime: RuntimeChoice
    precision: Precision | None
    threads: int
    gpus: float
    batch_size: int
    version: str = __version__


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """What became of the images of one part."""

    part: int
    embedded: int
    failed: int


class PartWorker:
    """One process of the pool. The model is opened with the first part."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings

    @cached_property
    def embedder(self) -> Embedder:
        """The model, checked to be the starting process's own.

        Raises:
            InputError: another version of this package, or other weights under the same name.
        """
        wanted = self.settings
        here = __version__
        if here != wanted.version:
            raise InputError(
                f"a worker has modelscope_reid {here}, not {wanted.version}; install one version on every machine."
            )
        embedder = Embedder.from_pretrained(
            wanted.model,
            runtime=wanted.runtime,
            precision=wanted.precision,
            threads=wanted.threads,
            device="cuda" if wanted.gpus else "cpu",
            batch_size=wanted.batch_size,
        )
        found = (embedder.fingerprint, embedder.runtime.precision)
        expected = (wanted.manifest.model, wanted.manifest.precision)
        if found != expected:
            raise InputError(
                f"{socket.gethostname()} has the model {wanted.model} as {found[0][:12]}… in {found[1]}, not as "
                f"{expected[0][:12]}… in {expected[1]}; put the same files, and processors that can, on every machine."
            )
        return embedder

    @cached_property
    def listing(self) -> Listing:
        """The listing of the collection."""
        return Listing(self.settings.output)

    def embed_part(self, part: int) -> PartCounts:
        """Embed the images of a part, batch by batch from its first on, and write its files.

        Raises:
            ReidError: the storage does not answer, or the output cannot be written.
        """
        limit = self.embedder.limits.max_bytes
        images = [_StoredImage(self.settings.source, file, limit) for file in self.listing.part(part)]
        embeddings = self.embedder.embed_many(images, on_error="skip")
        good = [images[index] for index in embeddings.indices]
        write_part(
            self.settings.output,
            part,
            paths=[image.name for image in good],
            hashes=[image.sha256 for image in good],
            vectors=embeddings.vectors,
            failures=[
                (images[failure.index].name, images[failure.index].problem or failure.reason)
                for failure in embeddings.failures
            ],
            model=self.settings.manifest.model,
        )
        return PartCounts(part=part, embedded=len(good), failed=len(embeddings.failures))


class _StoredImage:
    """A file on a storage, read when it is decoded: the embedder's threads read and decode ahead of the network."""

    def __init__(self, storage: Storage, file: StoredFile, max_bytes: int) -> None:
        self.name = file.path
        self.problem = ""
        self.sha256 = b""
        self._storage = storage
        self._too_large = file.size > max_bytes
        self._stream: io.BytesIO | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes; the first call fetches the file."""
        if self._stream is None:
            self._stream = io.BytesIO(self._fetch())
        if not (chunk := self._stream.read(size)):
            self._stream = io.BytesIO()  # decoded crops are waiting for the network, not their files
        return chunk

    def _fetch(self) -> bytes:
        if self._too_large:
            self.problem = f"{self.name} is larger than an image may be: see ImageLimits.max_bytes"
            raise OSError(self.problem)
        try:
            content = self._storage.read(self.name)
        except MISSING as error:
            why = "it may not be read" if isinstance(error, PermissionError) else "it is gone since it was listed"
            self.problem = f"{self.name} cannot be read ({why})"
            raise
        self.sha256 = sha256(content).digest()
        return content


def embed_parts(settings: WorkerSettings, parts: Sequence[int], *, workers: int | None) -> Iterator[PartCounts]:
    """Embed `parts` on the connected Ray; yield the counts of each as it is done, in any order.

    Raises:
        InputError: more workers than the cluster has room for.
        ReidError: what a worker could not do, or a part whose workers died again and again.
    """
    import ray
    from ray.util import ActorPool

    count = min(_workers_that_fit(ray, settings, workers), len(parts))
    kind = ray.remote(
        num_cpus=settings.threads, num_gpus=settings.gpus, max_restarts=-1, max_task_retries=PART_RETRIES
    )(PartWorker)
    pool = ActorPool([kind.remote(settings) for _ in range(count)])
    try:
        yield from pool.map_unordered(lambda worker, part: worker.embed_part.remote(part), list(parts))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ReidError):
            raise type(cause)(str(cause)) from error
        raise ReidError(f"a worker failed ({type(cause).__name__}: {cause}); start again to go on.") from error
    except ray.exceptions.RayError as error:
        raise ReidError(
            f"a part ended its worker {PART_RETRIES + 1} times ({str(error).splitlines()[0]}); "
            "see that a worker has enough memory, and start again to go on."
        ) from error


def _workers_that_fit(ray: ModuleType, settings: WorkerSettings, wanted: int | None) -> int:
    """Return how many workers to start: what is wanted, or as many as the machines hold at once."""
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": settings.threads, "GPU": settings.gpus}
    most = sum(int(min(room.get(name, 0) // need for name, need in needs.items() if need)) for room in rooms)
    if most == 0 or (wanted or 0) > most:
        raise InputError(
            f"Ray has room for {most} workers of {settings.threads} CPUs and {settings.gpus:g} GPUs, not for "
            f"{wanted or 1}; ask for fewer workers or threads, or add machines."
        )
    return wanted or most


@contextmanager
def connected(address: str | None, *, cpus: int | None) -> Iterator[None]:
    """Start a Ray with `cpus` on this machine (`address` None or ``local``), or connect to a cluster; leave it after.

    A Ray that the program has connected to already is taken as it is, and left running.

    Raises:
        InputError: Ray is not installed, or nothing answers at the address.
    """
    address = address or LOCAL
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        for name, value in (_LOCAL_ENVIRONMENT | ({} if "ray" in sys.modules else _LOCAL_TOKEN)).items():
            os.environ.setdefault(name, value)
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    else:
        _check_reachable(address)
    ray = require_library("ray")
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no Ray at {address!r} ({reason}); {_ADVICE}") from error
    try:
        yield
    finally:
        ray.shutdown()


_ADVICE = (
    "give ray://host:10001 of a cluster that `ray start --head` started, or leave the address out; where the cluster "
    "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
)


def _check_reachable(address: str) -> None:
    """Raise InputError at once where nothing listens at ``ray://host:port`` or ``host:port``, before Ray waits long."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if parts.hostname is None or parts.port is None:
            return  # auto, or a name that Ray resolves
        socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise InputError(f"no Ray at {address!r} ({error}); {_ADVICE}") from error
