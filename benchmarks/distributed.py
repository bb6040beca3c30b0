"""Two worker processes against one: how fast, and whether every number of every embedding is the same.

    python benchmarks/distributed.py DIR [--workers 2] [--runtime torch] [--model M]

DIR holds crops, to the bottom. Each worker and the one process compute with one thread; images are decoded in threads
beside it, as everywhere. The workers are timed in whole, and without the first part of each: Ray's start and the
loading of the models are in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from modelscope_reid import Embedder
from modelscope_reid.datasets.image_files import find_images
from modelscope_reid.distributed.embedding_run import embed_collection


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--model")
    arguments = parser.parse_args()

    paths = find_images([arguments.folder])
    size = sum(Path(path).stat().st_size for path in paths) / len(paths)
    print(f"{len(paths):,} images of {size:,.0f} bytes in the mean\n")
    print("| system | images | seconds | images/s | CPU ms an image, all threads |\n|---|---|---|---|---|")
    embedder = Embedder.from_pretrained(arguments.model, runtime=arguments.runtime, threads=1, device="cpu")
    embedder.embed(paths[:64])
    began, began_cpu = time.monotonic(), time.process_time()
    one = embedder.embed_many(paths)
    seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    count = len(paths)
    name = f"one process, {embedder.runtime.name}"
    print(f"| {name} | {count:,} | {seconds:.1f} | {count / seconds:.1f} | {1000 * cpu / count:.2f} |")

    with tempfile.TemporaryDirectory() as output:
        report = embed_collection(
            arguments.folder, output, model=arguments.model, workers=arguments.workers, runtime=arguments.runtime
        )
        files = sorted(Path(output, "embeddings").iterdir())
        rows = pq.read_table(Path(output, "embeddings"))
        # From the end of the first part, by when every worker has its model: Ray's start costs the same for any number.
        ends = sorted(file.stat().st_mtime for file in files)
        steady = ends[-1] - ends[arguments.workers - 1]
        counted = rows.num_rows - sum(pq.read_metadata(file).num_rows for file in files[: arguments.workers])
        stored = sum(file.stat().st_size for file in files)
    name = f"{arguments.workers} workers under Ray"
    print(f"| {name}, in whole | {report.images:,} | {report.seconds:.1f} | {report.images / report.seconds:.1f} | |")
    print(f"| {name}, after the first part of each | {counted:,} | {steady:.1f} | {counted / steady:.1f} | |")

    vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
    same_paths = rows["path"].to_pylist() == [paths[index] for index in one.indices]
    equal = same_paths and np.array_equal(vectors.view(np.uint32), one.vectors.view(np.uint32))
    print(f"\nEvery path and every bit the same: {'yes' if equal else 'NO'}.")
    print(f"Parquet: {stored / rows.num_rows:,.0f} bytes an image.")


if __name__ == "__main__":
    main()
