"""Write a file whole or not at all.

In: a path. Out: the file under its name, complete, or what was there before. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelscope_reid.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it on success and removed on failure.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another place.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; make room, or elsewhere.") from error
    finally:
        temporary.unlink(missing_ok=True)
