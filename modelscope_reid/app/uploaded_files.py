"""Files that a visitor uploaded through the page, in a folder of this process, for an hour.

In: paths that gradio hands on, which `page_guard` has checked. Out: names and bytes. Knows nothing of images.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modelscope_reid.errors import ImageError

FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
"""Where gradio reads which folder it may keep uploads in."""
KEPT_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One file: as the visitor calls it, and where it lies."""

    name: str
    path: Path

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            ImageError: it was swept away.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name} was uploaded too long ago; upload it again.") from error


def uploaded(value: str | Sequence[str] | None) -> list[UploadedFile]:
    """Return the files that a gradio.File holds: none, one or several."""
    paths = [] if value is None else [value] if isinstance(value, str) else value
    return [UploadedFile(name=Path(path).name, path=Path(path)) for path in paths]


@cache
def uploads_folder() -> Path:
    """Return a new folder for uploads, inside the one that the environment names; it ends with this process."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="modelscope-reid-uploads-", dir=given or None)
    os.environ[FOLDER_VARIABLE] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder).resolve()


def sweep(folder: Path, *, older_than: float = KEPT_SECONDS) -> int:
    """Delete files that have lain there for so many seconds; return how many bytes are left."""
    left, deadline = 0, time.time() - older_than
    for path, size, written in list(_files(folder)):
        if written < deadline:
            path.unlink(missing_ok=True)
        else:
            left += size
    return left


def _files(folder: Path) -> Iterator[tuple[Path, int, float]]:
    """Yield each file with its size and when it was written; those that vanish meanwhile are left out."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield path, found.st_size, found.st_mtime
