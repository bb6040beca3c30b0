"""An exported model folder: what it holds, how it is written, and how it is opened.

In and out: a folder with configuration.json, whose section "export" is an `ExportInfo`, and the network's graph:
model.xml with model.bin, or model.onnx. The files are known by their hashes, and say themselves what they are too.
Opening one needs no torch. Knows nothing of how the graph was made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelscope_reid.config import ModelConfig
from modelscope_reid.configuration import (
    CONFIGURATION_FILE,
    VERIFICATION,
    configuration_for,
    read_configuration,
    read_section,
)
from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.fields import check_fields, dataclass_from_dict
from modelscope_reid.files import whole_file
from modelscope_reid.libraries import Library, has_library
from modelscope_reid.ranking.calibration import Verifier
from modelscope_reid.runtimes import Precision, Runtime, RuntimeChoice, RuntimeName
from modelscope_reid.runtimes.caches import cache_folder
from modelscope_reid.runtimes.parity_report import ExportFormat, ParityReport

SECTION = "export"
"""The section of configuration.json."""
GRAPH_FILES: dict[ExportFormat, tuple[str, ...]] = {"openvino": ("model.xml", "model.bin"), "onnx": ("model.onnx",)}
"""The files of each format; the first is the one to open."""
ENGINES: dict[ExportFormat, tuple[RuntimeName, ...]] = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "openvino"),
}
"""What opens each format; the first that is installed, where nothing is asked for."""
COMPUTED: dict[Precision, Precision] = {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16", "int8": "int8"}
"""What an engine is told to compute in; half precision is how weights are stored, and is computed in float32."""
_PIECE = 1 << 20  # bytes read at once; hashlib.file_digest is of Python 3.11


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """A file of the folder and its SHA-256, in hex."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class PackageVersion:
    """A package that had a part in the export, and its version."""

    name: str
    version: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What an exported folder is.

    `fingerprint` is that of the float32 network it was made from; `opset` the version of the operators in the file;
    `layout` that of its input.
    """

    format: ExportFormat
    precision: Precision
    opset: str
    fingerprint: str
    files: tuple[GraphFile, ...]
    versions: tuple[PackageVersion, ...]
    parity: ParityReport
    layout: Literal["NCHW RGB"] = "NCHW RGB"

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        packages = ", ".join(f"{package.name} {package.version}" for package in self.versions)
        names = ", ".join(file.name for file in self.files)
        return f"{self.parity}\n{names}: operators {self.opset}, input {self.layout}, made with {packages}"


def read_export(folder: Path) -> ExportInfo | None:
    """Return what a folder's configuration.json says of an export; None where it is no exported folder.

    Raises:
        ConfigError: it says it in a way that cannot be read.
    """
    values = read_section(folder, SECTION)
    return None if values is None else dataclass_from_dict(ExportInfo, values, where=SECTION)


def open_exported(
    folder: Path,
    *,
    runtime: RuntimeChoice = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> tuple[Runtime, ModelConfig]:
    """Open an exported folder: what runs it, and the network's config.

    Raises:
        InputError: no exported folder; an engine or a precision that it was not exported for; a library is missing.
        CheckpointError: a file of the graph is missing, or is not the one that was exported.
        ConfigError: configuration.json cannot be read.
    """
    info = read_export(folder)
    if info is None:
        raise InputError(f"{folder} is no exported folder; make one with `modelscope-reid export`.")
    engines = ENGINES[info.format]
    if runtime not in ("auto", *engines):
        raise InputError(
            f"{folder} is exported for {' or '.join(engines)}, and runtime is {runtime!r}; open the model that it was "
            "made from instead, or leave runtime out."
        )
    if precision not in (None, info.precision):
        raise InputError(
            f"{folder} is exported in {info.precision}, and precision is {precision!r}; leave precision out, or export "
            f"the model again with --precision {precision}."
        )
    config, _ = read_configuration(folder)
    for file in info.files:
        _check_file(folder / file.name, file)
    graph = folder / GRAPH_FILES[info.format][0]
    engine = _engine(runtime, engines)
    options: dict[str, Any] = {"precision": COMPUTED[info.precision], "device": device, "threads": threads}
    if engine == "openvino" and (cache := cache_folder()):
        options["cache"] = cache / engine
    return open_graph(graph, engine, config=config, fingerprint=info.fingerprint, **options), config


def _engine(asked: RuntimeChoice, engines: tuple[RuntimeName, ...]) -> RuntimeName:
    """Return the engine asked for, or the first that is installed; the first where none is, whose error says so."""
    if asked != "auto":
        return asked
    libraries: dict[RuntimeName, Library] = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
    return next((engine for engine in engines if has_library(libraries[engine])), engines[0])


def open_graph(graph: Path, engine: RuntimeName, **options: Any) -> Runtime:
    """Open a graph's file with an engine; options are those of `OpenVinoRuntime` and `OnnxRuntime`."""
    if engine == "openvino":
        from modelscope_reid.runtimes.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(graph, **options)
    from modelscope_reid.runtimes.onnx_runtime import OnnxRuntime

    return OnnxRuntime(graph, **options)


def _check_file(path: Path, expected: GraphFile) -> None:
    try:
        found = file_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; export the model again.") from error
    if found != expected:
        raise CheckpointError(f"{path} is not the file that was exported (its hash differs); export the model again.")


def file_of(path: Path) -> GraphFile:
    """Return a file's name and hash."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return GraphFile(name=path.name, sha256=digest.hexdigest())


def place_for(folder: Path) -> None:
    """Raise `InputError`, before the work and not after it, where an export into `folder` would overwrite other things.

    Raises:
        InputError: it is a file, or a folder that holds anything but an earlier export.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder to write.")
    if folder.is_dir() and any(folder.iterdir()) and read_export(folder) is None:
        raise InputError(f"{folder} holds other things than an export; name a new folder.")


def commit(staged: Path, folder: Path, *, info: ExportInfo, config: ModelConfig, verifier: Verifier | None) -> None:
    """Move the graph's files from `staged`, on the same disk, to `folder`; configuration.json makes it whole, last.

    Raises:
        InputError: the folder cannot be written.
    """
    values = {**configuration_for(config, stock=False), SECTION: info.to_dict()}
    if verifier:
        values[VERIFICATION] = verifier.to_dict()
    stale = {name for names in GRAPH_FILES.values() for name in names} - {file.name for file in info.files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / CONFIGURATION_FILE) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            for file in info.files:
                (staged / file.name).replace(folder / file.name)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}; make room, or elsewhere.") from error
