"""The documents are true: code blocks and examples run, tables, links, file tree and map agree with the repository.

The code blocks of README.md are executed for real: in a temporary folder that holds the files they name, in
processes of their own, against a hub and a web server on the loopback. README_zh.md holds the same blocks, to the
letter, which a test of its own shows; so they are executed once. The blocks of `INSTALLATION` are not executed, since
`make test` is what runs this file: their make targets must exist.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from http_server import serve
from hub_server import HubServer
from PIL import Image

from modelscope_reid.config import BACKBONES, PassVitConfig, Preprocessing
from modelscope_reid.configuration import configuration_for
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.hub import DEFAULT_MODEL_ID
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README_zh.md"
EXAMPLES = ROOT / "examples"
DOCUMENTS = [ENGLISH, CHINESE, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]
MARKET_CONFIG = PassVitConfig(num_classes=751, preprocessing=Preprocessing(image_size=(384, 128)), drop_path=0.1)

PACKAGE_DATA = [ROOT / "modelscope_reid" / "recipes", ROOT / "modelscope_reid" / "pretrained"]
INSTALLATION = {"make demo": "demo", "make test": "test", "pip install .": None}
"""Commands of the README that are not executed, and the make target that each needs."""
IMAGE_URL = "https://example.org/b.jpg"
"""The one address in the code blocks that is replaced: by that of an image on the loopback web server."""
RUN, SHOWN = {"python", "bash"}, {"text", "bibtex"}
PYTHON_RESULTS = """
assert embeddings.shape == (3, 1536) and embeddings.dtype == np.float32
assert similarities.shape == (3, 3) and similarities.dtype == np.float32
assert embedder.report.origin == "PASS (ModelScope, PASS-reID)"
assert type(reid) is modelscope_reid.modelscope_plugin.ReidPipeline
assert embedding.shape == (1, 1536) and embedding.dtype == np.float32
assert np.allclose(embedding, embeddings[:1], atol=1e-4)
assert len(results) == 3 and all(result[OutputKeys.IMG_EMBEDDING].shape == (1, 1536) for result in results)
assert found.indices.tolist() == [0, 2] and [failure.index for failure in found.failures] == [1]
assert people.shape == (2, 1536) and people.dtype == np.float32
assert strict.limits.timeout_seconds == 3
assert 0 < report.mAP <= 1 and 0 <= report.rank(1) <= 1 and report.queries_skipped == 0
assert features["embeddings"].shape == (3, 1536) and features["paths"][-1] == "a.jpg"
"""
"""What the README says about the values that its Python blocks make."""


Outcome = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Block:
    """One fenced code block."""

    language: str
    text: str


def blocks_of(document: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def commands(block: Block) -> list[str]:
    """The lines of a block without their comments."""
    return [line.partition("#")[0].strip() for line in block.text.splitlines()]


def is_installation(block: Block) -> bool:
    return block.language == "bash" and set(commands(block)) <= set(INSTALLATION)


PYTHON_BLOCKS = [block for block in blocks_of(ENGLISH) if block.language == "python"]
SHELL_BLOCKS = [block for block in blocks_of(ENGLISH) if block.language == "bash" and not is_installation(block)]


@dataclass(frozen=True)
class Workplace:
    """A folder with the files that the code blocks name, and the environment that its processes run in."""

    folder: Path
    hub_folder: Path
    environment: dict[str, str]
    image_url: str

    def run(self, *command: str, **changes: str) -> Outcome:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **changes},
            capture_output=True,
            text=True,
            timeout=1200,
        )


def save_as_on_the_hub(folder: Path) -> None:
    """Write a model folder as ModelScope publishes it: stock keys and names only, no safetensors."""
    save_pretrained(ReidModel.with_seed(MARKET_CONFIG), folder)
    (folder / "model.safetensors").unlink()
    configuration = json.loads((folder / "configuration.json").read_text())
    del configuration["model"]["reid"]
    (folder / "configuration.json").write_text(json.dumps(configuration))


def save_as_torchreid(path: Path) -> None:
    """Write an OSNet x0.25 under torchreid's names."""
    model = ReidModel.with_seed(dataclasses.replace(BACKBONES["osnet_x0_25"], num_classes=751))
    names = {name: name.removeprefix("backbone.") for name in model.state_dict()}
    state = {names[name].replace("head.classifiers.0", "classifier"): t for name, t in model.state_dict().items()}
    torch.save(state, path)


def lay_out_files(folder: Path) -> None:
    """Put the files that the code blocks name into `folder`."""
    crops = sorted((ROOT / "assets").glob("person*.png"))
    (folder / "crops" / "below").mkdir(parents=True)
    for name, crop in zip(("a.jpg", "b.jpg", "c.png", "crops/d.png", "crops/below/e.png"), crops, strict=False):
        shutil.copy(crop, folder / name)
    Image.open(crops[5]).resize((256, 256)).save(folder / "frame.jpg")
    save_as_torchreid(folder / "osnet_x0_25_market.pth")
    write_synthetic_market(folder / "Market-1501", people=22, cameras=3, images_per_camera=2, train_people=18)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Serve the hub's model and an image on the loopback."""
    folder, hub_folder, home, bin_folder = (tmp_path_factory.mktemp(name) for name in ("work", "hub", "home", "bin"))
    lay_out_files(folder)
    save_as_on_the_hub(hub_folder)
    command = bin_folder / "modelscope-reid"  # this checkout's command line, whatever is installed
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modelscope_reid "$@"\n')
    command.chmod(0o755)
    with HubServer({DEFAULT_MODEL_ID: hub_folder}) as hub, serve((folder / "b.jpg").read_bytes()) as web:
        environment = {
            **os.environ,
            **hub.environment(home),
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join([str(bin_folder), os.environ["PATH"]]),
        }
        yield Workplace(folder, hub_folder, environment, web.url("/good"))


def run_blocks(workplace: Workplace) -> dict[str, Outcome]:
    """Execute the shell blocks in order, then the Python blocks, which read what the shell wrote, in one namespace."""
    shell = "set -euo pipefail\n" + "\n".join(block.text for block in SHELL_BLOCKS)
    outcomes = {"shell": workplace.run("bash", "-c", shell)}
    script = "\n".join([*(block.text for block in PYTHON_BLOCKS), PYTHON_RESULTS])
    (workplace.folder / "blocks.py").write_text(script.replace(IMAGE_URL, workplace.image_url), encoding="utf-8")
    return {**outcomes, "python": workplace.run(sys.executable, "blocks.py")}


def run_examples(workplace: Workplace) -> dict[str, Outcome]:
    """Execute the examples: as they stand, with arguments (those in one process, to import torch once), offline."""
    embed, cosine, evaluate = (str(EXAMPLES / f"{name}.py") for name in ("embed", "cosine_similarity", "evaluate"))
    calls = [[embed], [cosine], [cosine, "--model", DEFAULT_MODEL_ID, "a.jpg", "a.jpg"], [evaluate]]
    driver = f"import runpy, sys\nfor sys.argv in {calls!r}:\n    runpy.run_path(sys.argv[0], run_name='__main__')"
    offline = {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_CACHE": str(workplace.folder / "nothing")}
    return {
        "examples": workplace.run(sys.executable, "-c", driver),
        "offline": workplace.run(sys.executable, embed, **offline),
    }


@pytest.fixture(scope="module")
def outcomes(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Run everything that the documents call runnable, two processes at a time; importing torch is most of it."""
    elsewhere = tmp_path_factory.mktemp("cache of the examples")
    beside = dataclasses.replace(workplace, environment={**workplace.environment, "MODELSCOPE_CACHE": str(elsewhere)})
    with ThreadPoolExecutor(2) as pool:
        blocks, examples = pool.submit(run_blocks, workplace), pool.submit(run_examples, beside)
        return {**blocks.result(), **examples.result()}


def test_shell_blocks_run(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["shell"].returncode == 0, outcomes["shell"].stderr
    output = outcomes["shell"].stdout
    assert "features.npz: 3 embeddings of 1536 numbers, 0 images skipped\n" in output
    assert "written to my_model\n" in output
    assert "(not the official set): 12 queries" in output and '"mINP": ' in output  # four people by three cameras
    judged = re.findall(r"^-?[01]\.\d{4} (?:same|different|unsure) \(probability", output, re.MULTILINE)
    assert len(judged) == 2  # by the light model, and by my_model once it is calibrated
    assert output.count("run/model: trained\n") == 2  # trained, and resumed when there was nothing left to do
    assert "agree.png: cosine similarity " in output


def test_the_report_shown_is_the_one_printed(outcomes: dict[str, Outcome]) -> None:
    shown = next(block.text for block in blocks_of(ENGLISH) if "origin" in block.text and block.language == "text")
    assert shown in outcomes["shell"].stdout


def test_python_blocks_run_and_give_what_they_say(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["python"].returncode == 0, outcomes["python"].stderr
    text = "".join(block.text for block in PYTHON_BLOCKS)
    assert text.count(IMAGE_URL) == 1
    promised = re.findall(r"print\(.*#\s(.+)", text)
    assert len(promised) == 3
    for line in promised:
        assert line in outcomes["python"].stdout


def test_the_examples_run_as_they_stand_and_with_arguments(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["examples"].returncode == 0, outcomes["examples"].stderr
    assert re.search(
        r"result is :  \[\[[^]]+\]\]\n"
        r"feat_1: \(1536,\)\nfeat_2: \(1536,\)\ncosine similarity is: -?0\.\d{4}\n"
        r"feat_1: \(1536,\)\nfeat_2: \(1536,\)\ncosine similarity is: 1\.0000\n"
        r"Market-1501 \(not the official set\): 76 queries, 172 gallery images\n(?:.*\n)*?mAP 0\.\d{4}",
        outcomes["examples"].stdout,
    ), outcomes["examples"].stdout
    for example in EXAMPLES.glob("*.py"):
        assert example.read_text(encoding="utf-8").count("\n") < 60


def test_an_example_without_network_asks_for_a_local_folder(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["offline"].returncode == 1
    assert "Traceback" not in outcomes["offline"].stderr
    last = outcomes["offline"].stderr.splitlines()[-1]
    assert last.startswith(f"error: {DEFAULT_MODEL_ID!r} is no local path") and "could not be reached" in last
    assert last.endswith("pass the path of a local model folder or checkpoint file instead")


def test_the_repository_is_a_model_folder_once_weights_lie_in_it(workplace: Workplace, tmp_path: Path) -> None:
    shutil.copy(ROOT / "configuration.json", tmp_path)
    (tmp_path / "pytorch_model.pt").symlink_to(workplace.hub_folder / "pytorch_model.pt")
    model, report = load_checkpoint(tmp_path)
    assert model.config == MARKET_CONFIG
    assert not report.notes


def test_the_repositorys_configuration_is_what_the_code_writes() -> None:
    written = json.dumps(configuration_for(MARKET_CONFIG), indent=2) + "\n"
    assert (ROOT / "configuration.json").read_text(encoding="utf-8") == written


def test_both_readmes_have_the_same_code_blocks() -> None:
    assert blocks_of(ENGLISH) == blocks_of(CHINESE)
    assert {block.language for block in blocks_of(ENGLISH)} == RUN | SHOWN


def test_both_readmes_have_the_same_sections_figures_and_links() -> None:
    english, chinese = (document.read_text(encoding="utf-8") for document in (ENGLISH, CHINESE))
    chinese = chinese.replace("docs/page_zh.png", "docs/page.png")  # the same page in the other language
    for pattern in (r"^(#+) ", r"\]\(([^)]+)\)", r"\d+\.\d+ / \d+\.\d+", r'src="([^"]+)"'):
        first, second = (re.findall(pattern, text, re.MULTILINE) for text in (english, chinese))
        assert sorted(set(first) - {"README_zh.md"}) == sorted(set(second) - {"README.md"}), pattern
    assert len(re.findall(r"^\|", english, re.MULTILINE)) == len(re.findall(r"^\|", chinese, re.MULTILINE))


def test_the_installation_commands_are_the_makefiles_targets() -> None:
    installation = [block for block in blocks_of(ENGLISH) if is_installation(block)]
    assert [command for block in installation for command in commands(block)] == list(INSTALLATION)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in filter(None, INSTALLATION.values()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_and_pictures_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("document", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_no_package_registry_is_named(document: Path) -> None:
    assert not re.search(r"pypi|pythonhosted|index.url|anaconda|npmjs", document.read_text(encoding="utf-8"))


def test_the_model_card_has_the_hubs_head() -> None:
    head = yaml.safe_load(CHINESE.read_text(encoding="utf-8").split("---\n")[1])
    assert head["tasks"] == ["image-reid-person"]
    assert (head["domain"], head["frameworks"]) == (["cv"], ["pytorch"])
    assert head["metrics"] == ["mAP", "Rank-1"]
    assert head["license"] == "Apache License 2.0"


@pytest.mark.parametrize("document", [ENGLISH, CHINESE], ids=lambda path: path.name)
@pytest.mark.parametrize("name", BACKBONES)
def test_the_model_table_agrees_with_the_code(document: Path, name: str) -> None:
    config = BACKBONES[name]
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in ReidModel(config).parameters())
    row = re.search(rf"^\| `{name}` \|(.+)\|$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    cells = [cell.strip() for cell in row[1].split("|")]
    assert cells[1] == f"`{config.family}`"
    assert re.match(r"\d+", cells[2])[0] == str(config.embedding_dim)  # type: ignore[index]
    assert cells[3:5] == ["{}x{}".format(*config.image_size), f"{parameters / 1e6:.1f}"]


def package_modules() -> list[str]:
    package = ROOT / "modelscope_reid"
    return sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))


def test_the_file_tree_names_every_module_and_nothing_else() -> None:
    tree = next(block.text for block in blocks_of(ENGLISH) if "modelscope_reid/\n" in block.text)
    outside, inside = tree.split("modelscope_reid/\n")
    named = {name for line in inside.splitlines() for name in re.findall(r"[\w/]+(?:\.py|/)", line)}
    data = {f"{folder.name}/" for folder in PACKAGE_DATA}
    assert named == data | {name.partition("/")[0] + ("/" if "/" in name else "") for name in package_modules()}
    for name in re.findall(r"^\S+|(?<=  )[A-Z]\S+|(?<=  )\w+\.\w+", outside, re.MULTILINE):
        assert (ROOT / name).exists(), name
