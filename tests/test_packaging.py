"""The wheel and the sdist: built, unpacked elsewhere, and run from there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both from a clean copy of what git tracks, as a release would."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--outdir", str(output), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return output


def test_the_sdist_holds_what_the_repository_holds(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert names >= {
        "setup.py", "pyproject.toml", "README.md", "README_zh.md", "ARCHITECTURE.md", "LICENSE", "CHANGELOG.md",
        "CITATION.cff", "configuration.json", "Makefile", "assets/person01_camera1.png", "examples/embed.py",
        "benchmarks/embed.py", "docs/ranked_lists.png", "tests/test_packaging.py", "tests/data/embeddings_salt0.npz",
        "modelscope_reid/py.typed", "modelscope_reid/recipes/osnet_light.yaml",
        "modelscope_reid/pretrained/osnet_light/model.safetensors", "modelscope_reid/pretrained/osnet_light/README.md",
    }  # fmt: skip


def test_the_wheel_runs_the_demo_from_another_folder(dist: Path, tmp_path: Path) -> None:
    """Its files alone, in front of everything else; the libraries are those of this environment."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "modelscope_reid/py.typed" in names and not [name for name in names if name.startswith("tests")]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    where = "import modelscope_reid, sys; print(modelscope_reid.__file__)"
    run = {"cwd": tmp_path / "elsewhere", "env": environment, "capture_output": True, "text": True, "check": True}
    home = subprocess.run([sys.executable, "-c", where], **run)  # type: ignore[call-overload]
    assert Path(home.stdout.strip()).is_relative_to(tmp_path / "site")
    demo = subprocess.run([sys.executable, "-m", "modelscope_reid", "demo"], **run)  # type: ignore[call-overload]
    assert "float32 of osnet_light" in demo.stdout


def test_the_wheel_declares_what_it_imports(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert "Requires-Python: >=3.10" in metadata and "License-Expression: Apache-2.0" in metadata
    for name in ("torch", "torchvision", "timm", "open_clip_torch", "modelscope", "httpx", "jsonargparse"):
        assert f"Requires-Dist: {name}" in metadata, name
    assert not re.search(r"Requires-Dist: [^;\n]*==", metadata), "nothing is pinned"
