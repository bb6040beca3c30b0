"""The house as ARCHITECTURE.md draws it, read off the imports themselves."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modelscope_reid"

FLOORS: dict[str, int] = {
    "": 0,  # the package itself: lazy names only
    "errors": 0,
    "fields": 1,
    "libraries": 1,
    "config": 2,
    "files": 2,
    "downloads": 2,
    "embeddings": 2,
    "hub": 2,
    "ranking": 2,
    "configuration": 3,
    "images": 3,
    "preprocess": 3,
    "tables": 3,
    "datasets": 3,
    "plots": 4,
    "models": 4,
    "runtimes": 5,
    "embedder": 6,
    "feature_store": 7,
    "explanation": 7,
    "calibration_crops": 7,
    "speed": 7,
    "evaluation": 8,
    "distributed": 8,
    "gallery": 8,
    "reproduction": 9,
    "training": 9,
    "model_export": 9,
    "modelscope_trainer": 10,
    "modelscope_exporter": 10,
    "modelscope_plugin": 11,
    "demo": 12,
    "command_line": 12,
    "model_commands": 12,
    "gallery_commands": 12,
    "app_commands": 12,
    "app": 11,
    "cli": 13,
    "__main__": 14,
}
"""A module imports lower floors only; a folder's modules may also import one another."""
MODELSCOPE_ROOMS = {"modelscope_plugin", "modelscope_trainer", "modelscope_exporter"}
MODELSCOPE_HOMES = MODELSCOPE_ROOMS | {"hub", "demo"}
HEAVY = {"torch", "torchvision", "timm", "open_clip", "safetensors", "lightning", "modelscope"}
TORCH_ROOMS = {"models", "runtimes", "training"} | MODELSCOPE_ROOMS
OPTIONAL = {"pyarrow", "matplotlib", "openvino", "nncf", "onnx", "onnxruntime"}
OPTIONAL |= {"faiss", "pymilvus", "ray", "fsspec"}
SERVING = {"gradio", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"}
OPTIONAL |= SERVING

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The name in FLOORS: a module at the top, or the folder."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path, *, top_only: bool) -> set[str]:
    """Absolute names of the modules that a file imports; top_only leaves out functions and TYPE_CHECKING blocks."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "modelscope_reid":
                found.update(f"modelscope_reid.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            if top_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if top_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def external(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in MODULES} == set(FLOORS)


def test_the_map_in_architecture_md_is_this_one() -> None:
    drawn: dict[str, set[str]] = {}
    for line in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| (\d+) \| `([\w/]+\.py)`", line):
            drawn.setdefault(row[1], set()).add(row[2])
    there: dict[str, set[str]] = {}
    for path in MODULES:
        if path.parent == PACKAGE or path.name != "__init__.py" or room(path) == "runtimes":
            there.setdefault(str(FLOORS[room(path)]), set()).add(str(path.relative_to(PACKAGE)))
    assert drawn == there


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_lower_floors_only(path: Path) -> None:
    here = room(path)
    for name in imports(path, top_only=here == ""):
        if not name.startswith("modelscope_reid."):
            continue
        there = name.split(".")[1]
        if there not in FLOORS:  # a name of the package itself, such as __version__
            continue
        assert there == here or FLOORS[there] < FLOORS[here], (
            f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"
        )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modelscope_is_imported_in_its_own_rooms_only(path: Path) -> None:
    if "modelscope" in external(imports(path, top_only=False)):
        assert room(path) in MODELSCOPE_HOMES
    if room(path) not in MODELSCOPE_ROOMS:
        assert "modelscope" not in external(imports(path, top_only=True)), "import it in the function that needs it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_the_rooms_that_need_them(path: Path) -> None:
    here = room(path)
    heavy = external(imports(path, top_only=True)) & HEAVY
    assert not heavy or here in TORCH_ROOMS, f"{here} imports {heavy} at its top"
    if here == "ranking":
        assert not external(imports(path, top_only=False)) & HEAVY, "ranking/ knows no torch, not even in a function"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_optional_libraries_are_imported_where_they_are_used(path: Path) -> None:
    allowed = SERVING if room(path) == "app" else set()  # a room that others import in functions only
    assert not external(imports(path, top_only=True)) & (OPTIONAL - allowed)
    if room(path) != "app":
        assert not any(f"{name}.".startswith("modelscope_reid.app.") for name in imports(path, top_only=True))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small_and_nothing_forbidden_is_in_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 420
    assert not re.search(r"strict=False(?!\))|sys\.path|\.cuda\(\)|except Exception|except:", text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"


def test_every_module_has_a_test_file() -> None:
    tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    names = {path.stem if path.stem != "__init__" else path.parent.name for path in MODULES}
    trivial = {
        "__main__",
        "app",
        "datasets",
        "distributed",
        "models",
        "ranking",
        "runtimes",
        "training",
    }  # docstrings, a protocol, one call
    assert {f"test_{name}" for name in names - trivial} <= tests | {"test_modelscope_reid"}


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_loads_no_torch_and_little_else() -> None:
    loaded = modules_after("import modelscope_reid")
    assert not loaded & (HEAVY | OPTIONAL | {"numpy", "PIL", "httpx"})


def test_building_the_command_line_and_all_options_of_train_loads_no_torch() -> None:
    loaded = modules_after("from modelscope_reid.cli import COMMANDS, build_parser; build_parser(COMMANDS, ['train'])")
    assert not loaded & (HEAVY | OPTIONAL)


def test_opening_images_and_comparing_embeddings_loads_no_torch() -> None:
    loaded = modules_after("from modelscope_reid import load_image, cosine_similarity, Embedder")
    assert not loaded & (HEAVY | OPTIONAL)


def test_public_names_are_all_there() -> None:
    import modelscope_reid

    assert sorted(modelscope_reid.__all__) == sorted(modelscope_reid._HOMES)
    for name in modelscope_reid.__all__:
        assert getattr(modelscope_reid, name).__module__.startswith("modelscope_reid.")
        assert name in dir(modelscope_reid)
    with pytest.raises(AttributeError, match="has no attribute 'Embeder'"):
        _ = modelscope_reid.Embeder


@pytest.mark.parametrize("suffix", ["*.toml", "*.py", "*.md", "Makefile", ".ci/run", "*.cfg", "*.txt"])
def test_no_registry_address_and_no_lock_file(suffix: str) -> None:
    assert not list(ROOT.glob("*.lock")) and not list(ROOT.glob("*lock*.json"))
    registries = ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "index-" + "url", "find-" + "links")
    for path in ROOT.rglob(suffix):
        if not {".venv", "build", "dist"} & set(path.relative_to(ROOT).parts):
            text = path.read_text(encoding="utf-8")
            assert not [registry for registry in registries if registry in text], path


def test_the_package_is_found_from_this_checkout() -> None:
    spec = importlib.util.find_spec("modelscope_reid")
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)
