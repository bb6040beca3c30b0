"""The optional libraries, imported when they are first needed, and told to send nothing to anybody.

In: a library's name. Out: the module, or one `InputError` that says how to get it. Knows nothing of models.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging.config
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

from modelscope_reid.errors import InputError

Library = Literal["openvino", "nncf", "onnx", "onnxruntime", "faiss", "pymilvus", "fsspec", "ray", "fastapi", "gradio"]

EXTRAS: dict[Library, str] = {
    "openvino": "openvino",
    "nncf": "openvino",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "faiss": "gallery",
    "pymilvus": "milvus",
    "fsspec": "distributed",
    "ray": "distributed",
    "fastapi": "app",
    "gradio": "app",
}
"""The extra of this package that brings each library."""

_TELEMETRY = "openvino_telemetry"


def has_library(name: Library) -> bool:
    """Tell whether `name` can be imported, without importing it."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def require_library(name: Library) -> ModuleType:
    """Import and return the module `name`.

    OpenVINO and NNCF report their import and every conversion to Google Analytics, and write an id to the user's
    home, through the package openvino_telemetry. Both do without where it is not installed; for this process it is
    made to look so, unless the program has imported it itself. pymilvus configures `logging` for the whole process when
    it is imported, which closes every handler of the program; that one call is left out.

    Raises:
        InputError: it is not installed.
    """
    if EXTRAS[name] == "openvino":
        sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None: `import` finds no such module
    try:
        if name == "pymilvus":
            with _log_handlers_kept():
                return importlib.import_module(name)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(
            f"{name} is not installed; install it with `pip install 'modelscope-reid[{EXTRAS[name]}]'`."
        ) from error


@contextmanager
def _log_handlers_kept() -> Iterator[None]:
    """Keep what is imported inside from configuring `logging`, which would close the handlers there are."""
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = configure
