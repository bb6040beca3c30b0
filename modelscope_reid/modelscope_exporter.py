"""ModelScope's face of the export: ``Exporter.from_model(model).export_openvino(folder)``, or ``export_onnx``.

In and out: ModelScope's conventions (a model with a folder in; a dict of file paths by name out). Everything is done
by model_export.py; nothing is decided here. modelscope_plugin.py registers it. Written against ModelScope 1.40.2
(Apache-2.0).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from modelscope.exporters.base import Exporter

from modelscope_reid.errors import InputError
from modelscope_reid.model_export import export_model
from modelscope_reid.runtimes.exported_folder import GRAPH_FILES
from modelscope_reid.runtimes.parity_report import ExportFormat, ParityReport

ONNX_OPSET = 18


class ReidExporter(Exporter):  # type: ignore[misc]  # modelscope is untyped
    """The exporter of re-identification models; `report` says how near the last export is to PyTorch."""

    def __init__(self, model: Any = None, **kwargs: Any) -> None:
        super().__init__(model)
        self.report: ParityReport | None = None

    def export_onnx(
        self, output_dir: str | os.PathLike[str], opset: int = ONNX_OPSET, **options: Any
    ) -> dict[str, str]:
        """Export as ONNX; options are `export_model`'s. Return the path of the model and of configuration.json.

        Raises:
            InputError: another `opset` than 18, and as `export_model`.
        """
        if opset != ONNX_OPSET:
            raise InputError(f"opset is {opset}; this model is exported with {ONNX_OPSET}: leave it out.")
        return self._export(output_dir, "onnx", options)

    def export_openvino(self, output_dir: str | os.PathLike[str], **options: Any) -> dict[str, str]:
        """Export for OpenVINO; options are `export_model`'s. Return the path of the model and of configuration.json.

        Raises:
            InputError: as `export_model`.
        """
        return self._export(output_dir, "openvino", options)

    def _export(
        self, output_dir: str | os.PathLike[str], format: ExportFormat, options: dict[str, Any]
    ) -> dict[str, str]:
        self.report = export_model(self.model.model_dir, output_dir, format=format, **options)
        folder = Path(output_dir)
        return {"model": str(folder / GRAPH_FILES[format][0]), "configuration": str(folder / "configuration.json")}
