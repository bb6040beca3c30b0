"""From a local path or a ModelScope model id to a path on this machine; where the model of the package lies.

In: a path, or ``owner/name`` and a revision. Out: the absolute path of a file or a folder.
It opens no file, and knows only as much of a folder as tells a whole cached copy from a part of one. A local
path always wins over the hub, and touches no network.

Downloading is ModelScope's own ``snapshot_download``: its cache, resuming, token and environment variables
(`MODELSCOPE_CACHE`, `MODELSCOPE_ENDPOINT`, `MODELSCOPE_API_TOKEN`, ...) all hold. Written against modelscope
1.40 with modelscope_hub 0.5 (Apache-2.0).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import textwrap
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from modelscope_reid.errors import HubError

DEFAULT_MODEL_ID = "damo/cv_passvitb_image-reid-person_market"
"""What ModelScope's pipeline opens where it is told no model."""
BUNDLED_MODEL = "osnet_light"
"""What `Embedder` and the command line open where they are told no model."""

_WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx")
_FILE_SUFFIXES = (*_WEIGHT_SUFFIXES, ".xml", ".json", ".yaml", ".yml", ".tar", ".gz", ".zip")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
# What ModelScope leaves of a file that it did not finish: a partial file, byte ranges yet to be merged
# (`model.pt_0_167772159`), and the temporary folder of its versions up to 1.37.
_UNFINISHED = re.compile(r"\.incomplete$|\.parallel_tmp$|\.\w+_\d+_\d+$|(^|/)\._____temp/")
_PROBE_TIMEOUT_SECONDS = 10
_ADVICE = "pass the path of a local model folder or checkpoint file instead"

_logger = logging.getLogger(__name__)


def bundled_model() -> Path:
    """Return the folder of the light model that comes with the package.

    Raises:
        HubError: this installation lacks it.
    """
    folder = Path(str(files("modelscope_reid"))) / "pretrained" / BUNDLED_MODEL
    if not _is_whole(folder):
        raise HubError(f"the package's own model is not whole in {folder}; install the package again, or {_ADVICE}")
    return folder


def resolve_model(source: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return the absolute path of a local file or folder, or of the downloaded snapshot of a hub model.

    `revision` is a branch, a tag or a commit of the hub (its default branch when None), and has no meaning
    for a local path. Where the hub cannot be reached, a whole copy in ModelScope's cache is used instead.

    Raises:
        HubError: `source` is neither a local path nor has the form ``owner/name``; the hub has no such model,
            refuses it or cannot be reached; or the download broke off (the next call resumes it).
    """
    text = os.fspath(source)
    local = _local_path(text)
    if local is not None:
        return local
    if not _is_hub_id(text):
        expected = "an existing local path nor a hub id of the form 'owner/name'"
        raise HubError(f"{text!r} is neither {expected}; {_ADVICE}")
    return _download(text, revision)


def _local_path(text: str) -> Path | None:
    """Return the absolute path of what exists under a name, or None where nothing can be seen there.

    A link to a file keeps its own name, because the suffix says what the file is.
    """
    if not text:
        return None
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path.resolve()
        return path.parent.resolve() / path.name if path.exists() else None
    except (OSError, RuntimeError):  # a name too long, a folder that may not be read, an unknown ~user
        return None


def _is_hub_id(text: str) -> bool:
    """Tell whether a string has the form of a hub id and not that of a missing file."""
    return _HUB_ID.fullmatch(text) is not None and not text.lower().endswith(_FILE_SUFFIXES)


def _download(model_id: str, revision: str | None) -> Path:
    """Download a snapshot, or find it in ModelScope's cache when the hub does not answer."""
    from modelscope.hub import errors as hub_errors
    from modelscope.hub.api import HubApi
    from modelscope.hub.snapshot_download import snapshot_download
    from requests.exceptions import HTTPError, RequestException

    tried = f"{model_id!r} is no local path, and the ModelScope hub at {HubApi().endpoint}"
    try:
        if not os.environ.get("MODELSCOPE_PREFER_AI_SITE"):  # another site, which this request would not ask
            # snapshot_download takes 22 s to find that there is no network, and has no argument for that. One
            # small request tells at once. Any answer will do: a refusal is explained better by the download.
            with contextlib.suppress(hub_errors.APIError):
                hub = HubApi(timeout=_PROBE_TIMEOUT_SECONDS, max_retries=1)
                hub.get_model_branches_and_tags(model_id)
        return Path(snapshot_download(model_id, revision=revision)).resolve()
    except HTTPError as error:
        if isinstance(error.__cause__, hub_errors.NotExistError):
            asked = "" if revision is None else f" or revision {revision!r}"
            reason = f"has no such model{asked}"
        else:
            reason = "refuses access to it (log in with 'modelscope login')"
        raise HubError(f"{tried} {reason}; check the id, or {_ADVICE}") from error
    except (hub_errors.NetworkError, hub_errors.ServerError, RequestException) as error:
        cached = _cached_snapshot(snapshot_download, hub_errors.CacheNotFound, model_id, revision)
        if cached is None:
            raise HubError(f"{tried} could not be reached ({_one_line(error)}); {_ADVICE}") from error
        _logger.warning("the ModelScope hub could not be reached; using the cached copy %s", cached)
        return cached
    except (hub_errors.HubError, OSError) as error:
        broken = f"did not deliver it whole ({_one_line(error)}); call again to resume the download"
        raise HubError(f"{tried} {broken}, or {_ADVICE}") from error


def _cached_snapshot(
    snapshot_download: Callable[..., str],
    not_cached: type[Exception],
    model_id: str,
    revision: str | None,
) -> Path | None:
    """Return ModelScope's cached copy of a model where it is whole, without touching the network."""
    try:
        folder = Path(snapshot_download(model_id, revision=revision, local_files_only=True)).resolve()
    except not_cached:
        return None
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    """Tell whether a cached folder has its configuration and its weights, and no file left half written.

    ModelScope keeps no list of the files that a snapshot should have and calls any folder that is not empty
    a cached model. A finished file bears its name only once its length and hash were checked.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    unfinished = any(_UNFINISHED.search(name) for name in names)
    weights = any(name.lower().endswith(_WEIGHT_SUFFIXES) for name in names)
    return "configuration.json" in names and weights and not unfinished


def _one_line(error: BaseException) -> str:
    """Return the text of an error's first cause, such as "[Errno 111] Connection refused", on one short line.

    ModelScope's and urllib3's own texts wrap it several times over.
    """
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return textwrap.shorten(str(error) or type(error).__name__, width=200, placeholder=" ...")
