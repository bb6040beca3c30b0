"""Local paths, hub ids, ModelScope's cache and the hub's failures, against a hub on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from modelscope_hub.config import set_default_config

import modelscope_reid
from modelscope_reid import hub as hub_module
from modelscope_reid.errors import HubError
from modelscope_reid.hub import DEFAULT_MODEL_ID, bundled_model, resolve_model

MODEL_ID = "someone/tiny.reid-model"
TASK = "image-reid-person"
PIPELINE_TYPE = "a-pipeline-of-test-hub"
FILES = {
    "configuration.json": json.dumps(
        {"framework": "pytorch", "task": TASK, "pipeline": {"type": PIPELINE_TYPE}}
    ).encode(),
    "pytorch_model.pt": bytes(range(256)) * 8192,  # 2 MiB: two of the client's chunks
    "assets/crop.txt": b"a file in a folder",
}
ADVICE = "pass the path of a local model folder or checkpoint file instead"
RESOLVE = "import sys; from modelscope_reid.hub import resolve_model; print(resolve_model(sys.argv[1]))"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one model, that modelscope's client in this process talks to with an empty cache."""
    folder = tmp_path / "served"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with HubServer({MODEL_ID: folder}) as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        set_default_config(None)
        yield server
    set_default_config(None)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refusal(source: str, revision: str | None = None) -> str:
    with pytest.raises(HubError) as caught:
        resolve_model(source, revision=revision)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(source) in message
    assert ADVICE in message
    return message


def in_a_new_process(hub: HubServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Resolve MODEL_ID where modelscope is imported with the hub's limits: no retries."""
    return subprocess.run(
        [sys.executable, "-c", RESOLVE, MODEL_ID],
        env={**os.environ, **hub.environment(folder)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_local_folder_with_the_name_of_a_hub_model_wins(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / MODEL_ID).mkdir(parents=True)
    assert resolve_model(MODEL_ID) == (tmp_path / MODEL_ID).resolve()
    assert hub.requested == []


def test_a_local_file_becomes_absolute(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "weights.pt"
    file.touch()
    assert resolve_model("folder/weights.pt") == file.resolve()
    assert resolve_model(Path("folder/../folder/weights.pt")) == file.resolve()
    assert hub.requested == []


def test_a_link_to_a_file_keeps_its_name_and_suffix(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    link = tmp_path / "weights.safetensors"
    link.symlink_to("blob")
    assert resolve_model(link) == tmp_path.resolve() / "weights.safetensors"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "model",
        "one/two/three",
        "./owner/name",
        "../name",
        ".hidden/name",
        "owner/.hidden",
        "/no/such",
        "/missing",
        "~/missing",
        "~nobody-of-that-name/x",
        "owner/",
        "owner//name",
        "owner/na me",
        "owner\\name",
        "owner/name\n",
        "owner/näme",
        "weights/best.pt",
        "weights/best.PTH",
        "weights/best.bin",
        "weights/best.safetensors",
        "weights/best.onnx",
        "https://modelscope.cn/models/owner/name",
        "x" * 5000,
        "nul\0byte",
    ],
)
def test_what_has_neither_form_is_refused_without_a_request(hub: HubServer, source: str) -> None:
    message = refusal(source)
    assert "is neither an existing local path nor a hub id of the form 'owner/name'" in message
    assert hub.requested == []


def test_the_default_model_has_the_form_of_a_hub_id(hub: HubServer) -> None:
    assert "has no such model" in refusal(DEFAULT_MODEL_ID)  # so it was asked for


def test_a_model_is_downloaded_and_then_found_in_the_cache_offline(hub: HubServer, tmp_path: Path) -> None:
    folder = resolve_model(MODEL_ID)
    assert folder.is_absolute()
    assert folder.is_relative_to(tmp_path / "cache")
    assert contents(folder) == FILES

    downloads = sum("FilePath=" in path for path in hub.requested)
    assert resolve_model(MODEL_ID, revision="master") == folder
    assert sum("FilePath=" in path for path in hub.requested) == downloads == len(FILES)

    hub.stop()
    assert resolve_model(MODEL_ID) == folder
    assert resolve_model(MODEL_ID, revision="master") == folder
    assert "could not be reached" in refusal(MODEL_ID, revision="v2")


def test_a_changed_file_is_downloaded_again(hub: HubServer) -> None:
    folder = resolve_model(MODEL_ID)
    (hub.models[MODEL_ID] / "configuration.json").write_text("{}")
    assert resolve_model(MODEL_ID) == folder
    assert contents(folder) == {**FILES, "configuration.json": b"{}"}


def test_a_hub_out_of_order_is_like_no_hub(hub: HubServer, tmp_path: Path) -> None:
    folder = resolve_model(MODEL_ID)
    hub.status = HTTPStatus.BAD_GATEWAY
    assert in_a_new_process(hub, tmp_path).stdout == f"{folder}\n"


@pytest.mark.parametrize("missing", ["configuration.json", "pytorch_model.pt"])
def test_a_cached_copy_without_weights_or_configuration_is_not_whole(hub: HubServer, missing: str) -> None:
    (resolve_model(MODEL_ID) / missing).unlink()
    hub.stop()
    assert "could not be reached" in refusal(MODEL_ID)


@pytest.mark.parametrize(
    "leftover",
    [
        "assets/crop.txt.incomplete",
        "model.safetensors.parallel_tmp",
        "model.safetensors_0_167772159",
        "._____temp/model.pt",
    ],
)
def test_a_cached_copy_with_a_file_half_written_is_not_whole(hub: HubServer, leftover: str) -> None:
    path = resolve_model(MODEL_ID) / leftover
    path.parent.mkdir(exist_ok=True)
    path.touch()
    hub.stop()
    assert "could not be reached" in refusal(MODEL_ID)


def test_only_the_configuration_in_the_cache_is_no_model(hub: HubServer) -> None:
    from modelscope.hub.file_download import model_file_download

    # What modelscope's read_config and pipeline() leave behind when they stop early.
    model_file_download(MODEL_ID, "configuration.json")
    hub.stop()
    assert "could not be reached" in refusal(MODEL_ID)


def test_an_unknown_model_and_an_unknown_revision(hub: HubServer) -> None:
    assert f"the ModelScope hub at {hub.url} has no such model" in refusal("someone/unknown")
    assert "has no such model or revision 'v9'" in refusal(MODEL_ID, revision="v9")


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN])
def test_a_model_that_is_not_for_everyone(hub: HubServer, status: HTTPStatus) -> None:
    hub.status = status
    assert "refuses access to it (log in with 'modelscope login')" in refusal(MODEL_ID)


def test_no_hub_and_no_copy(hub: HubServer) -> None:
    hub.stop()
    message = refusal(MODEL_ID)
    assert message.startswith(f"{MODEL_ID!r} is no local path, and the ModelScope hub at {hub.url} could not")
    assert "Connection refused" in message


def test_a_download_cut_off_is_an_error_and_the_next_one_completes_it(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = len(FILES["pytorch_model.pt"]) // 2
    hub.cut_after["pytorch_model.pt"] = half
    broken = in_a_new_process(hub, tmp_path)
    assert broken.returncode == 1
    assert broken.stdout == ""
    last = broken.stderr.splitlines()[-1]
    assert last.startswith("modelscope_reid.errors.HubError: ")
    assert "did not deliver it whole" in last
    assert "pytorch_model.pt" in last
    assert ADVICE in last

    # Without a hub, what has come so far is no model.
    absent = HubServer({})
    absent.stop()
    with monkeypatch.context() as offline:
        offline.setenv("MODELSCOPE_ENDPOINT", absent.url)
        set_default_config(None)
        assert "could not be reached" in refusal(MODEL_ID)
    set_default_config(None)

    hub.cut_after.clear()
    hub.sent.clear()
    assert contents(resolve_model(MODEL_ID)) == FILES
    assert hub.sent == {"pytorch_model.pt": half}  # the rest of the one file, and no other


def test_nothing_is_printed_on_stdout(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    resolve_model(MODEL_ID)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Downloading" in printed.err  # ModelScope's progress bar


def test_modelscope_itself_works_against_the_loopback_hub(hub: HubServer) -> None:
    from modelscope.hub.api import HubApi
    from modelscope.utils.hub import read_config

    assert HubApi().get_model(MODEL_ID)["Name"] == MODEL_ID.split("/")[1]
    assert read_config(MODEL_ID).task == TASK


def test_a_pipeline_of_modelscope_opens_a_model_of_the_loopback_hub(hub: HubServer) -> None:
    from modelscope.pipelines import pipeline
    from modelscope.pipelines.builder import PIPELINES

    class Folder:
        def __init__(self, model: str, device: str) -> None:
            self.model = model

    PIPELINES.register_module(TASK, module_name=PIPELINE_TYPE, module_cls=Folder, force=True)
    try:
        opened = pipeline(TASK, model=MODEL_ID, device="cpu")
    finally:
        del PIPELINES.modules[TASK][PIPELINE_TYPE]
    assert contents(Path(opened.model)) == FILES


def test_the_packages_own_model_is_a_small_model_folder_inside_the_package() -> None:
    folder = bundled_model()
    assert folder.parent.parent == Path(modelscope_reid.__file__).parent
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "configuration.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["tasks"] == [TASK]


@pytest.mark.parametrize("there", [(), ("configuration.json",), ("model.safetensors",)])
def test_a_package_without_its_model_says_so(
    there: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "files", lambda _: tmp_path)
    folder = tmp_path / "pretrained" / "osnet_light"
    folder.mkdir(parents=True)
    for name in there:
        (folder / name).write_text("x")
    with pytest.raises(HubError) as error:
        bundled_model()
    assert str(error.value) == (
        f"the package's own model is not whole in {folder}; install the package again, or {ADVICE}"
    )
