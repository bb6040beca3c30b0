"""What this machine can do, as far as the choice of engine, precision and threads depends on it.

In: nothing. Out: the processor's name and instructions, and how many cores this process may use. Knows nothing of
models; what an engine can do on a device is the engine's own word.
"""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's


@cache
def _cpu_info() -> dict[str, str]:
    """Return the first processor's lines of /proc/cpuinfo; nothing on systems without it."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def cpu_name() -> str:
    """Return what tells this processor from others: its name, and its family, model and stepping where known."""
    info = _cpu_info()
    names = ("model name", "cpu family", "model", "stepping")
    return " ".join(info[name] for name in names if name in info) or platform.processor() or platform.machine()


def cpu_has_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16 in hardware; False where the system does not say."""
    info = _cpu_info()
    return bool(_BF16_FLAGS & set(f"{info.get('flags', '')} {info.get('Features', '')}".split()))


def usable_cores() -> int:
    """Return how many processors this process may use: what it is bound to, and what its container is given."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        bound = os.cpu_count() or 1
    return max(1, min(bound, _quota()))


def _quota() -> int:
    """Return the container's limit in whole processors, rounded up; very many where there is none."""
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        return 1 << 20


def default_threads() -> int | None:
    """Return how many threads an engine should use, or None where it should count the cores itself.

    It should where the process may use the whole machine: engines leave out the second threads of cores. They do not
    see a container's limit, and not all of them see what the process is bound to.
    """
    cores = usable_cores()
    return cores if cores < (os.cpu_count() or 1) else None
