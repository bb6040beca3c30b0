"""What is remembered between starts: compiled networks and the choice of engine, in the user's cache folder.

In and out: bytes under a key. A file that is damaged, or cannot be read or written, is as good as none: what is in it
can be made again. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

from modelscope_reid.errors import InputError
from modelscope_reid.files import whole_file

CACHE_VARIABLE = "MODELSCOPE_REID_CACHE"
"""The environment variable that names another cache folder; empty for none."""
KEPT_FILES = 8
"""Files kept in one folder, the latest used: a compiled ViT-B has 350 MB."""

logger = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Return this package's cache folder, which may not exist yet; None where the user wants none."""
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return Path(named).expanduser() if named else None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "modelscope_reid"


def key_of(*parts: object) -> str:
    """Return a file name for what `parts` tell apart; each is taken by its `repr`."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


def recall(path: Path) -> bytes | None:
    """Return what `remember` wrote to `path`; None where there is nothing, or it is damaged."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() == digest:
        return data
    logger.info("the cached file %s is damaged; it is made again", path)
    return None


def remember(path: Path, data: bytes) -> None:
    """Write `data` to `path` with its hash, and remove the oldest of its folder; a disk that refuses is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)
        latest_first = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda file: -file.stat().st_mtime)
    except (OSError, InputError) as error:
        logger.info("the cache %s cannot be written: %s", path.parent, error)
        return
    for old in latest_first[KEPT_FILES:]:
        with contextlib.suppress(OSError):
            old.unlink()
