"""How fast, and how equal: the stock ModelScope pipeline and ours, on the same folder and the same JPEG files.

    python benchmarks/embed.py DIR [--count 32] [--rounds 5]

DIR holds JPEG crops. Each system lives in a process of its own (ours takes over the stock name), and they take turns:
every figure is the median over the rounds, and ratios compare turns of one run on one machine. The weights are a PASS
ViT-B/16 with random numbers (seed 0): speed does not depend on them, and equality holds for any.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((256, 128), (384, 128))
BATCH_SIZES = (8, 16, 32)
STOCK, OURS = "stock ModelScope", "modelscope_reid"


def serve(system: str, folder: str, channel: Connection) -> None:
    """Open the pipeline of `system` and answer (row, paths) with (seconds, embeddings) until told None."""
    import torch
    from modelscope.pipelines import pipeline

    logging.disable(logging.WARNING)
    if system == OURS:
        import modelscope_reid.modelscope_plugin  # noqa: F401  # takes over the stock name
    torch.manual_seed(0)
    reid = pipeline("image-reid-person", model=folder, device="cpu")
    owner = type(reid).__module__.split(".")[0]
    assert owner == ("modelscope_reid" if system == OURS else "modelscope"), owner

    rows: dict[str, Callable[[list[str]], list[dict[str, Any]]]] = {
        "one by one": lambda paths: [reid(path) for path in paths],
        "a list": lambda paths: reid(paths),
        **{f"batch_size={n}": lambda paths, n=n: reid(paths, batch_size=n) for n in BATCH_SIZES},
    }
    channel.send(torch.get_num_threads())
    while (message := channel.recv()) is not None:
        row, paths = message
        start = time.perf_counter()
        outputs = rows[row](paths)
        seconds = time.perf_counter() - start
        channel.send((seconds, np.concatenate([output["img_embedding"] for output in outputs])))


def start(system: str, folder: Path) -> tuple[Connection, Any]:
    """Start the process of one system; return its channel and the process."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(system, str(folder), there), daemon=True)
    process.start()
    threads = here.recv()
    print(f"{system}: ready, {threads} torch threads", flush=True)
    return here, process


def measure(folder: Path, paths: list[str], rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    """Return images/s by row and system, and the largest difference between the two systems' embeddings."""
    workers = {system: start(system, folder) for system in (STOCK, OURS)}
    rows = ["one by one", "a list", *(f"batch_size={n}" for n in BATCH_SIZES)]
    speeds: dict[str, dict[str, list[float]]] = {row: {STOCK: [], OURS: []} for row in rows}
    difference = 0.0
    for channel, _ in workers.values():
        channel.send(("batch_size=8", paths[:8]))  # warm up
        channel.recv()
    for turn in range(rounds):
        for row in rows:
            vectors = {}
            for system in (STOCK, OURS) if turn % 2 == 0 else (OURS, STOCK):
                channel = workers[system][0]
                channel.send((row, paths))
                seconds, vectors[system] = channel.recv()
                speeds[row][system].append(len(paths) / seconds)
            difference = max(difference, float(np.abs(vectors[STOCK] - vectors[OURS]).max()))
    for channel, process in workers.values():
        channel.send(None)
        process.join()
    return {
        row: {name: statistics.median(values) for name, values in by.items()} for row, by in speeds.items()
    }, difference


def report(size: tuple[int, int], speeds: dict[str, dict[str, float]], difference: float) -> str:
    """Return one size's table as Markdown."""
    best = max(by[STOCK] for by in speeds.values())
    lines = [
        f"### PASS ViT-B/16 at {size[0]}x{size[1]}",
        "",
        "| call | stock, images/s | ours, images/s | ours / stock | ours / stock's best |",
        "|---|---|---|---|---|",
    ]
    for row, by in speeds.items():
        lines.append(
            f"| {row} | {by[STOCK]:.2f} | {by[OURS]:.2f} | {by[OURS] / by[STOCK]:.2f} | {by[OURS] / best:.2f} |"
        )
    return "\n".join([*lines, "", f"Largest difference between the embeddings: {difference:.1e}.", ""])


def machine() -> str:
    """Return processor, cores and versions in one line."""
    import modelscope
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return (
        f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"modelscope {modelscope.__version__}"
    )


def main() -> None:
    """Measure both sizes and print the tables."""
    from modelscope_reid import save_pretrained
    from modelscope_reid.config import PassVitConfig, Preprocessing
    from modelscope_reid.models.reid_model import ReidModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of JPEG crops")
    parser.add_argument("--count", type=int, default=32, help="crops to embed in each turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each system per row")
    options = parser.parse_args()
    paths = sorted(str(path) for path in options.folder.rglob("*.jpg"))[: options.count]
    if len(paths) < options.count:
        parser.error(f"{options.folder} holds {len(paths)} .jpg files; {options.count} are needed")
    tables = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            config = PassVitConfig(num_classes=751, preprocessing=Preprocessing(image_size=size))
            save_pretrained(ReidModel.with_seed(config), folder)
            speeds, difference = measure(Path(folder), paths, options.rounds)
            tables.append(report(size, speeds, difference))
            print(tables[-1], flush=True)
    print(f"{options.count} JPEG files, median of {options.rounds} turns. {machine()}")


if __name__ == "__main__":
    main()
