"""What more work costs: images a second and memory from 1 to 10,000 JPEG files, the path around the network, start-up.

    python benchmarks/growth.py DIR [--model M] [--counts 1 8 64 1000 10000] [--rounds 3]

DIR holds JPEG crops; where a count asks for more than there are, they are given again, which changes nothing: nothing
is kept of an image. Three tables:

1. Growth: one process embeds the counts one after the other, and prints the highest memory it has had so far.
2. The path: the same crops from JPEG files and as ready tensors through the same runtime, in turns.
3. Start-up: seconds of a fresh process from its start to the first embedding, by runtime; OpenVINO without and with its
   cache of compiled models, and as an exported folder, which loads no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
RUNTIMES = ("torch", "openvino", "onnxruntime")
FIRST = "from modelscope_reid import Embedder; Embedder.from_pretrained({model!r}, {options}).embed({path!r})"


def growth(model: str, runtime: str, paths: list[str], counts: list[int]) -> list[tuple[int, float, float]]:
    """Return (count, images/s, peak MB) for each count, in this process."""
    import resource

    from modelscope_reid import Embedder

    embedder = Embedder.from_pretrained(model, runtime=runtime)
    embedder.embed(paths[:1])
    rows = []
    for count in counts:
        repeats = max(1, 16 // count)
        start = time.perf_counter()
        for _ in range(repeats):
            for batch in embedder.stream(islice(cycle(paths), count)):
                assert len(batch.vectors)
        speed = repeats * count / (time.perf_counter() - start)
        rows.append((count, speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000))
    return rows


def path_share(model: str, runtime: str, paths: list[str], rounds: int) -> tuple[float, float]:
    """Return images/s of ready tensors and of JPEG files, medians of turns in this process."""
    from modelscope_reid import Embedder, load_image
    from modelscope_reid.preprocess import resize, to_batch

    embedder = Embedder.from_pretrained(model, runtime=runtime)
    preprocessing = embedder.config.preprocessing
    ready = [
        to_batch([resize(load_image(path), preprocessing) for path in paths[place : place + BATCH_SIZE]], preprocessing)
        for place in range(0, len(paths), BATCH_SIZE)
    ]
    bare, whole = [], []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        for batch in ready:
            embedder.runtime.run(batch)
        bare.append(len(paths) / (time.perf_counter() - start))
        start = time.perf_counter()
        embedder.embed(paths)
        whole.append(len(paths) / (time.perf_counter() - start))
    return statistics.median(bare[1:]), statistics.median(whole[1:])


def start_up(model: str, options: str, path: str, cache: str) -> float:
    """Return the seconds of a fresh process that embeds one image."""
    code = FIRST.format(model=model, options=options, path=path)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MODELSCOPE_REID_CACHE": cache})
    return time.perf_counter() - start


def start_ups(model: str, exported: str, path: str, rounds: int) -> dict[str, float]:
    """Return the median seconds by way of starting; they take turns."""
    ways = {
        "torch": (model, "runtime='torch'", True),
        "onnxruntime": (model, "runtime='onnxruntime'", True),
        "openvino, nothing compiled before": (model, "runtime='openvino'", False),
        "openvino, compiled before": (model, "runtime='openvino'", True),
        "openvino, exported folder, compiled before": (exported, "", True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as warm:
        for turn in range(1 + rounds):
            for way, (folder, options, keeps) in ways.items():
                with tempfile.TemporaryDirectory() as cold:
                    taken = start_up(folder, options, path, warm if keeps else cold)
                if turn:
                    seconds[way].append(taken)
    return {way: statistics.median(values) for way, values in seconds.items()}


def child(task: str, **arguments: Any) -> Any:
    """Run a function of this file in a fresh process and return what it returns."""
    call = f"runpy.run_path({__file__!r})[{task!r}](**json.load(sys.stdin))"
    code = f"import json, runpy, sys; print(json.dumps({call}))"
    given = json.dumps(arguments)  # thousands of paths are more than a command line holds
    done = subprocess.run([sys.executable, "-c", code], input=given, check=True, stdout=subprocess.PIPE, text=True)
    printed = done.stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    """Measure and print the three tables."""
    from modelscope_reid.hub import bundled_model
    from modelscope_reid.model_export import export_model
    from modelscope_reid.speed import describe_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of JPEG crops")
    parser.add_argument("--model", default=str(bundled_model()), help="model folder; by default the light model")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 64, 1000, 10000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    paths = sorted(str(path.resolve()) for path in options.folder.rglob("*.jpg"))
    if len(paths) < BATCH_SIZE:
        parser.error(f"{options.folder} holds {len(paths)} .jpg files; {BATCH_SIZE} are needed")
    print(f"{Path(options.model).name}, batches of {BATCH_SIZE}. {describe_machine()}\n", flush=True)
    print("| runtime | images | images/s | peak memory so far, MB |\n|---|---|---|---|")
    for runtime in RUNTIMES:
        for count, speed, memory in child(
            "growth", model=options.model, runtime=runtime, paths=paths, counts=options.counts
        ):
            print(f"| {runtime} | {count:,} | {speed:.1f} | {memory:.0f} |", flush=True)
    print("\n| runtime | ready tensors, images/s | JPEG files, images/s | lost |\n|---|---|---|---|")
    some = paths[: 10 * BATCH_SIZE]
    for runtime in RUNTIMES:
        bare, whole = child("path_share", model=options.model, runtime=runtime, paths=some, rounds=options.rounds)
        print(f"| {runtime} | {bare:.1f} | {whole:.1f} | {1 - whole / bare:.1%} |", flush=True)
    print("\n| way | seconds from the start of a process to its first embedding |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        exported = str(Path(folder) / "exported")
        export_model(options.model, exported, format="openvino", precision="fp32")
        for way, seconds in start_ups(options.model, exported, paths[0], options.rounds).items():
            print(f"| {way} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
