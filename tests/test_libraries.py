"""Optional libraries: one clear error where one is missing, and no word to Google Analytics."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelscope_reid import libraries
from modelscope_reid.errors import InputError
from modelscope_reid.libraries import EXTRAS, has_library, require_library


@pytest.mark.parametrize("name", sorted(EXTRAS))
def test_a_missing_library_is_one_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(wanted: str) -> None:
        raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    monkeypatch.setattr(libraries.importlib, "import_module", missing)
    expected = rf"{name} is not installed; install it with `pip install 'modelscope-reid\[{EXTRAS[name]}\]'`"
    with pytest.raises(InputError, match=expected):
        require_library(name)


def test_a_library_that_lacks_another_one_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(wanted: str) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(libraries.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        require_library("onnx")


def test_has_library_tells_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_library("onnxruntime")
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    assert not has_library("onnx")


def test_openvino_gets_no_telemetry() -> None:
    code = """
from modelscope_reid.libraries import require_library
require_library("openvino")
from openvino.tools.ovc import telemetry
print(type(telemetry).__module__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_pymilvus_leaves_the_log_handlers_of_a_program_open() -> None:
    code = """
import logging
from modelscope_reid.libraries import require_library

class Handler(logging.Handler):
    closed = False
    def close(self):
        self.closed = True

handler = Handler()
configure = logging.config.dictConfig
require_library("pymilvus")
print(handler.closed, logging.config.dictConfig is configure)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False True"
