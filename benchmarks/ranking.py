"""How fast and in how much memory: metrics and re-ranking against plain NumPy, on the same seeded features.

    python benchmarks/ranking.py [--rounds 3] [--skip-msmt17] [--dense-rerank]

Features have the sizes and the structure of Market-1501 and MSMT17 and come from tests/parity_recipe.py; the plain
evaluator is the one of tests/reference.py. Every row runs in a process of its own, the rows of one size take turns, and
each figure is the median over the rounds. Seconds run from features as a model gives them to figures, normalisation
included. Memory is the peak of the process; "above the features" is what it adds to the process once the features are
read. Threads are those that NumPy's BLAS takes: set OPENBLAS_NUM_THREADS to limit them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import scipy

from modelscope_reid.ranking.labelled import LabelledEmbeddings
from modelscope_reid.ranking.metrics import rank, rank_distances
from modelscope_reid.ranking.reranking import rerank

TESTS = Path(__file__).resolve().parent.parent / "tests"
SIZES: dict[str, dict[str, int]] = {
    "Market-1501": {},
    "MSMT17": {"n_query": 11659, "n_gallery": 82161, "n_distractors": 0, "n_ids": 3060, "n_cams": 15},
}
Features = dict[str, Any]


def from_tests(name: str) -> ModuleType:
    """Load a module of tests/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def write_features(size: str, folder: Path) -> None:
    """Draw the features of a dataset and write them as .npy files."""
    for side, arrays in zip("qg", from_tests("parity_recipe").reid_features(**SIZES[size]), strict=True):
        for name, array in zip(("vectors", "person_ids", "camera_ids"), arrays, strict=True):
            np.save(folder / f"{side}_{name}.npy", array)


def plain(kind: str) -> Callable[[Features, Features], float]:
    """Return the plain evaluator with this kind of sort."""
    reference = from_tests("reference")

    def run(query: Features, gallery: Features) -> float:
        left, right = (reference.unit_rows(side["vectors"]) for side in (query, gallery))
        labels = [(side["person_ids"], side["camera_ids"]) for side in (query, gallery)]
        return float(reference.plain_figures(reference.squared_distances(left, right), *labels, kind=kind).mAP)

    return run


def ours(query: Features, gallery: Features) -> float:
    """Rank from features."""
    return rank(LabelledEmbeddings(**query), LabelledEmbeddings(**gallery)).mAP


def ours_reranked(query: Features, gallery: Features) -> float:
    """Re-rank, and rank the new distances as they are made."""
    left, right = LabelledEmbeddings(**query), LabelledEmbeddings(**gallery)
    return rank_distances(rerank(left.vectors, right.vectors).blocks(), left, right).mAP


def plain_reranked(query: Features, gallery: Features) -> float:
    """Re-rank on whole matrices, as the published code does."""
    reference = from_tests("reference")
    distances = reference.plain_rerank(query["vectors"], gallery["vectors"], k1=20, k2=6, lambda_value=0.3)
    labels = [(side["person_ids"], side["camera_ids"]) for side in (query, gallery)]
    return float(reference.plain_figures(distances, *labels).mAP)


ROWS: dict[str, Callable[[Features, Features], float]] = {
    "metrics, plain NumPy, stable argsort": lambda query, gallery: plain("stable")(query, gallery),
    "metrics, plain NumPy, default argsort": lambda query, gallery: plain("quicksort")(query, gallery),
    "metrics, ours": ours,
    "re-ranking and metrics, plain NumPy": plain_reranked,
    "re-ranking and metrics, ours": ours_reranked,
}
OURS = "metrics, ours"


def measure(row: str, folder: str, channel: Connection) -> None:
    """Run one row and send (seconds, peak MB, MB above the features, mAP)."""
    sides = [
        {name: np.load(Path(folder) / f"{side}_{name}.npy") for name in ("vectors", "person_ids", "camera_ids")}
        for side in "qg"
    ]
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    mean_average_precision = ROWS[row](*sides)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    channel.send((seconds, peak / 1e6, (peak - before) / 1e6, mean_average_precision))


def in_a_process(function: Callable[..., None], *arguments: Any) -> Any:
    """Run a function in a fresh process and return what it sends."""
    here, there = multiprocessing.Pipe()
    takes_channel = (there,) if function is measure else ()
    process = multiprocessing.get_context("spawn").Process(target=function, args=(*arguments, *takes_channel))
    process.start()
    there.close()
    result = here.recv() if takes_channel else None
    process.join()
    assert process.exitcode == 0, (function, arguments, process.exitcode)
    return result


def table(size: str, rows: list[str], rounds: int) -> str:
    """Measure the rows of one size in turns and return a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(write_features, size, Path(folder))
        shape = [np.load(Path(folder) / f"{side}_vectors.npy", mmap_mode="r").shape for side in "qg"]
        turns: dict[str, list[tuple[float, float, float, float]]] = {row: [] for row in rows}
        for turn in range(rounds):
            for row in rows if turn % 2 == 0 else reversed(rows):
                turns[row].append(in_a_process(measure, row, folder))
    medians = {
        row: [statistics.median(column) for column in zip(*results, strict=True)] for row, results in turns.items()
    }
    lines = [
        f"### {size} size: {shape[0][0]:,} x {shape[1][0]:,} x {shape[0][1]}, {rounds} round(s)",
        "",
        "| row | seconds | seconds of the rounds | ours / this | peak MB | MB above the features | mAP |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, (seconds, peak, above, figure) in medians.items():
        ratio = f"{medians[OURS][0] / seconds:.2f}" if row.startswith("metrics, plain") else ""
        every = ", ".join(f"{result[0]:.2f}" for result in turns[row])
        lines.append(f"| {row} | {seconds:.2f} | {every} | {ratio} | {peak:,.0f} | {above:,.0f} | {figure:.9f} |")
    return "\n".join([*lines, ""])


def machine() -> str:
    """Return processor, cores, versions and BLAS threads in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index,call-overload]
    return (
        f"{name}, {os.cpu_count()} cores; OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS', 'unset')}; "
        f"Python {platform.python_version()}, NumPy {np.__version__} with {blas['name']} {blas['version']}, "
        f"SciPy {scipy.__version__}; load average at the start {json.dumps(os.getloadavg())}"
    )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row at Market size; MSMT17 size takes one")
    parser.add_argument("--skip-msmt17", action="store_true", help="leave out the MSMT17 size, which takes minutes")
    parser.add_argument("--dense-rerank", action="store_true", help="re-rank on whole matrices too: minutes, 9 GB")
    options = parser.parse_args()
    print(machine(), flush=True)
    rows = [row for row in ROWS if row != "re-ranking and metrics, plain NumPy"]
    print("\n" + table("Market-1501", list(ROWS) if options.dense_rerank else rows, options.rounds), flush=True)
    if not options.skip_msmt17:
        print(table("MSMT17", [row for row in rows if row.endswith("ours")], 1), flush=True)


if __name__ == "__main__":
    main()
