"""The commands, as typed: what they print, and their exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gallery_models import VERIFIER, tiny_embedder, write_crops

from modelscope_reid.command_line import Commands, build_parser, keyword_arguments
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.gallery_commands import enroll, gallery, identify, search

COMMANDS: Commands = {
    "enroll": (enroll, {"images": "*"}),
    "search": (search, {"queries": "*"}),
    "identify": (identify, {"queries": "*"}),
    "gallery": (gallery, {"action": ""}),
}


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Embedder:
    embedder = tiny_embedder()
    monkeypatch.setattr(Embedder, "from_pretrained", lambda model=None, **_: embedder)
    return embedder


@pytest.fixture
def crops(tmp_path: Path) -> list[str]:
    return [str(path) for path in write_crops(tmp_path / "crops", 6)]


def run(*typed: str) -> int:
    parsed = build_parser(COMMANDS, list(typed)).parse_args(list(typed))
    function, _ = COMMANDS[parsed.command]
    return function(**keyword_arguments(parsed[parsed.command], function))


@pytest.fixture
def place(tmp_path: Path, crops: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Six images of person0 to person2, whose names say so."""
    pattern = r"(?P<person_id>person\d)_(?P<camera_id>\d+)"
    assert run("enroll", *crops, "--gallery", str(tmp_path / "g.db"), "--pattern", pattern) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'g.db'}: 6 images enrolled, 0 were there, 0 skipped\n"
    return str(tmp_path / "g.db")


def test_enroll_says_what_it_skipped(place: str, crops: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("enroll", crops[0], "missing.jpg", "--gallery", place, "--json") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["known"] == 1 and said.err.startswith("skipped: ") and "missing.jpg" in said.err


def test_search(place: str, crops: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", crops[4], "--gallery", place, "--top", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == crops[4] and len(lines) == 3
    assert lines[1].split() == ["1", "1.0000", "same", "person1", "camera", "004", crops[4]]
    assert (
        run("search", crops[4], "--gallery", place, "--json", "--exclude-camera", "004", "--person", "person1,x") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [match["source"] for match in found["matches"]] == [crops[1]]
    assert run("search", crops[4], "--gallery", place, "--since", "2026-01-01") == 0
    assert capsys.readouterr().out == f"{crops[4]}\n"


def test_identify(place: str, crops: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("identify", *crops[:2], "--gallery", place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{crops[0]}: person0  similarity 1.0000  probability 0.99") and len(lines) == 2
    assert run("identify", crops[0], "--gallery", place, "--threshold", "1.5") == 0
    assert f"{crops[0]}: unknown" in capsys.readouterr().out
    assert run("identify", crops[0], crops[3], "--gallery", place, "--one-person", "--json", "--closed") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["query"], found["person_id"]) == ("all queries", "person0")


def test_a_table_brings_its_labels(tmp_path: Path, crops: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    table, place = tmp_path / "t.csv", str(tmp_path / "t.db")
    table.write_text(
        "path,person_id,timestamp\n" + "".join(f"{path},P{n % 2},2026-01-0{n + 1}\n" for n, path in enumerate(crops))
    )
    assert run("enroll", str(table), "--gallery", place) == 0
    with pytest.raises(InputError, match="has labels of its own"):
        run("enroll", str(table), "--gallery", place, "--person-ids", "Ann")
    capsys.readouterr()
    assert run("search", crops[0], "--gallery", place, "--since", "2026-01-03", "--until", "2026-01-05", "--json") == 0
    assert {match["person_id"] for match in json.loads(capsys.readouterr().out)["matches"]} == {"P0", "P1"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--pattern", "("], "is no regular expression"),
        (["--pattern", "x"], "has neither"),
        (["--pattern", "(?P<person_id>qqq)"], "does not fit"),
        (["--person-ids", "a,b"], "person_ids has fewer values"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, crops: list[str], typed: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run("enroll", *crops, "--gallery", str(tmp_path / "g.db"), *typed)


def test_every_action(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*typed: str) -> str:
        assert run("gallery", *typed, "--gallery", place) == 0
        return capsys.readouterr().out

    assert "entries: 6\npeople: 3\n" in said("stats")
    assert json.loads(said("stats", "--json"))["cameras"] == 6
    assert said("verify").count("right: ") == 5
    assert said("export", "--output", str(tmp_path / "out.npz")).endswith("out.npz: 6 entries\n")
    with np.load(tmp_path / "out.npz") as table:
        assert table["embeddings"].shape == (6, 20)
    assert said("copy", "--output", str(tmp_path / "h.db")).endswith("6 entries added, 0 were there\n")
    assert said("cluster", "--threshold", "-1", "--output", str(tmp_path / "s.png")).startswith("1 people, of 6 images")
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert said("delete", "--person", "person1").startswith("2 images of person1 deleted")
    assert "entries: 4\n" in said("stats")


def test_cluster_takes_the_threshold_of_the_calibrated_model(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def groups(*typed: str) -> list[list[dict[str, object]]]:
        capsys.readouterr()
        assert run("gallery", "cluster", "--gallery", place, "--json", *typed) == 0
        return list(json.loads(capsys.readouterr().out))

    strict = replace(VERIFIER, thresholds=replace(VERIFIER.thresholds, same_from=0.999999))
    monkeypatch.setattr(Embedder, "from_pretrained", lambda model=None, **_: tiny_embedder(verifier=strict))
    assert groups() == groups("--threshold", "0.999999") != groups("--threshold", "-1")
    monkeypatch.setattr(Embedder, "from_pretrained", lambda model=None, **_: tiny_embedder(verifier=None))
    with pytest.raises(InputError, match="the model is not calibrated"):
        groups()
    monkeypatch.setattr(Embedder, "from_pretrained", lambda model=None, **_: tiny_embedder(1))
    with pytest.raises(InputError, match="made with"):
        groups()


def test_what_actions_need(place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'burn' is nothing to do with a gallery; expected one of stats, verify"):
        run("gallery", "burn", "--gallery", place)
    for action, option in (
        ("delete", "--person"),
        ("export", "--output"),
        ("copy", "--output"),
    ):
        with pytest.raises(InputError, match=f"gallery {action} needs {option}"):
            run("gallery", action, "--gallery", place)
    for typed in (["search", "x.jpg"], ["identify", "x.jpg"], ["gallery", "stats"]):
        with pytest.raises(InputError, match="there is no gallery"):
            run(*typed, "--gallery", str(tmp_path / "nothing.db"))
