"""What the machine can do, read from files that the test writes, and from this process's own limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelscope_reid.runtimes import machine

CPU_INFO = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\nmodel name\t: Other\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_info", machine._cpu_info.__wrapped__)


@pytest.mark.parametrize(("flags", "expected"), [("", False), ("avx512_bf16", True), ("amx_bf16 x", True)])
def test_bf16_is_what_the_flags_say(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format(flags))
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    assert machine.cpu_has_bf16() is expected
    assert machine.cpu_name() == "A Processor"


def test_a_system_that_does_not_say_has_no_bf16_and_still_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "none")
    assert not machine.cpu_has_bf16() and machine.cpu_name()


def test_cores_are_what_the_process_is_bound_to_and_its_container_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert machine.usable_cores() == 6
    for text, cores in (("max 100000", 6), ("150000 100000", 2), ("10000 100000", 1), ("", 6)):
        (tmp_path / "cpu.max").write_text(text)
        assert machine.usable_cores() == cores, text
    assert machine.default_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.default_threads() is None
