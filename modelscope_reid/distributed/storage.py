"""Folders anywhere: a path, or any address that fsspec opens (s3://, gs://, abfs://, hdfs://, …).

In: a path or URL. Out: the images below it, the bytes of a file; files written whole or not at all. Knows nothing of
what is in them, nor of models or Ray.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from modelscope_reid.datasets.image_files import IMAGE_SUFFIXES
from modelscope_reid.errors import InputError, ReidError
from modelscope_reid.libraries import require_library

MISSING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""What is wrong with one file. Any other error is the storage's own, and stops the run."""

_LIBRARIES_OWN_ERRORS = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))


@dataclass(frozen=True)
class StoredFile:
    """A file's address, as `Storage.read` takes it, and its size in bytes (-1 where the storage does not say)."""

    path: str
    size: int


@dataclass(frozen=True)
class Storage:
    """A folder by its path or URL; the same in every process that it is sent to.

    Raises:
        InputError: no such kind of address, or the package that opens it is not installed (when first used).
    """

    url: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        library = require_library("fsspec")
        try:
            filesystem, root = library.core.url_to_fs(self.url)
        except ImportError as error:
            raise InputError(f"{self.url} cannot be opened: a package is missing ({error}).") from error
        except ValueError as error:
            raise InputError(f"{self.url} is no address that fsspec knows ({error}); give a path or s3://….") from error
        return filesystem, str(root).rstrip("/")

    @property
    def address(self) -> str:
        """What opens this folder, spelt in one way: an absolute path on this machine's disks, a URL elsewhere."""
        return self._address(self._opened[1])

    def images(self) -> list[StoredFile]:
        """Return the images below this folder, to the bottom, in the order of their addresses.

        Raises:
            InputError: there is none, or one whose name is not UTF-8, which a table cannot hold; no such bucket.
            ReidError: the storage does not answer.
        """
        filesystem, root = self._opened
        with self._refusing("listed"):
            filesystem.invalidate_cache()
            listed = filesystem.find(root, detail=True)
        found = sorted(
            (self._address(name), size if isinstance(size := entry.get("size"), int) else -1)
            for name, entry in listed.items()
            if name.lower().endswith(IMAGE_SUFFIXES)
        )
        if not found:
            raise InputError(f"{self.url} holds no image ({', '.join(IMAGE_SUFFIXES)}); give another folder or prefix.")
        for path, _ in found:
            if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
                raise InputError(f"{path!r} is not UTF-8, which Parquet wants; rename it.")
        return [StoredFile(path, size) for path, size in found]

    def read(self, path: str) -> bytes:
        """Return the bytes of a file: its address, or its name below this folder."""
        filesystem, _ = self._opened
        with storage_errors(path):
            content: bytes = filesystem.cat_file(self._below(path))
        return content

    def open(self, name: str) -> Any:
        """Open a file below this folder for reading in any order."""
        return self._opened[0].open(self._below(name), "rb")

    def write(self, name: str, content: bytes) -> None:
        """Write a file below this folder, whole or not at all; what was there is replaced.

        Raises:
            InputError: it cannot be written.
        """
        filesystem, _ = self._opened
        path = PurePosixPath(self._below(name))
        temporary = str(path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
        with self._refusing("written"):
            filesystem.makedirs(str(path.parent), exist_ok=True)
            filesystem.pipe_file(temporary, content)
            filesystem.mv(temporary, str(path))

    def names(self, folder: str) -> set[str]:
        """Return the names of the files directly in a folder below this one; none where it does not exist."""
        filesystem, _ = self._opened
        with self._refusing("listed"):
            filesystem.invalidate_cache()
            try:
                return {PurePosixPath(path).name for path in filesystem.find(self._below(folder), maxdepth=1)}
            except FileNotFoundError:
                return set()

    def remove(self, name: str) -> None:
        """Remove a file below this folder, where it exists."""
        filesystem, _ = self._opened
        with self._refusing("written"):
            if filesystem.exists(self._below(name)):
                filesystem.rm_file(self._below(name))

    @contextmanager
    def _refusing(self, verb: str) -> Iterator[None]:
        """Turn what a storage raises into errors about the whole folder."""
        try:
            with storage_errors(self.url):
                yield
        except MISSING as error:
            raise InputError(f"{self.url} cannot be {verb} ({error}); choose another place.") from error

    def _below(self, name: str) -> str:
        filesystem, root = self._opened
        whole = "://" in name or name.startswith("/")
        return str(filesystem._strip_protocol(name)) if whole else f"{root}/{name}"

    def _address(self, name: str) -> str:
        """Return what opens a file again: a plain path on this machine's disks, a URL elsewhere."""
        filesystem, _ = self._opened
        local = "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)
        return str(Path(name)) if local else str(filesystem.unstrip_protocol(name))


def open_storage(place: str | os.PathLike[str]) -> Storage:
    """Return the folder at a path or URL; a path is made absolute, since other processes work in other folders."""
    text = os.fspath(place)
    return Storage(text if "://" in text or "::" in text else str(Path(text).expanduser().absolute()))


@contextmanager
def storage_errors(name: str) -> Iterator[None]:
    """Turn what a storage raises into a `ReidError`, but for `MISSING`, which is about one file.

    Raises:
        ReidError: the storage does not answer, or refuses everything.
    """
    # fsspec leaves some errors of the clients below it as they are; a client that is not loaded raises none.
    own = (getattr(sys.modules[module], kind) for module, kind in _LIBRARIES_OWN_ERRORS if module in sys.modules)
    try:
        yield
    except MISSING:
        raise
    except (OSError, *own) as error:
        raise ReidError(f"the storage of {name} failed ({error}); check it, and start again to go on.") from error
