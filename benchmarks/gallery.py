"""The gallery: how fast it takes images in and finds them again, and whether it finds the right ones.

    python benchmarks/gallery.py [--sizes 10000 100000]        the embedded store: enroll, open, search, recall
    python benchmarks/gallery.py --milvus 10000                what the Milvus store adds to pymilvus's own time
    python benchmarks/gallery.py --real DIR                    Market-1501's layout: Rank-1, who is who, who is unknown

Vectors are drawn (seed 0) as a ReID model gives them: people are points in 64 dimensions, of which every image is a
noisy one in 512; a person has 12 images on average, taken by 6 cameras within an hour of a day. Queries are further
images of the same people. The truth that recall is measured against is a product of all pairs, done here.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.records import Record
from modelscope_reid.embedder import Embedder
from modelscope_reid.evaluation import Protocol, evaluate
from modelscope_reid.gallery.entries import Filters, GalleryInfo
from modelscope_reid.gallery.gallery import Gallery

DIMENSION, LATENT, QUERIES, TOP, CLIENTS = 512, 64, 500, 10, 8
INFO = GalleryInfo(fingerprint="drawn", dimension=DIMENSION)
DAY = 86_400.0


class Drawn:
    """`count` drawn images and QUERIES more: `vectors` (N, 512), `people`, `cameras` and `times` (N,)."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        total = count + QUERIES
        people = max(2, total // 12)
        self.people = np.concatenate([np.arange(people), random.integers(0, people, total - people)])
        random.shuffle(self.people)
        self.cameras = random.integers(0, 6, total)
        self.times = random.uniform(0, DAY, people)[self.people] + random.uniform(0, 3600, total)
        centres = random.standard_normal((people, LATENT), dtype=np.float32)
        spread = random.standard_normal((LATENT, DIMENSION), dtype=np.float32) / np.float32(np.sqrt(LATENT))
        self.vectors = np.empty((total, DIMENSION), np.float32)
        for start in range(0, total, 50_000):
            who = self.people[start : start + 50_000]
            images = centres[who] + 0.6 * random.standard_normal((len(who), LATENT), dtype=np.float32)
            noisy = images @ spread + 0.5 * random.standard_normal((len(who), DIMENSION), dtype=np.float32)
            self.vectors[start : start + len(who)] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
        self.count = count

    def truth(self, masks: list[NDArray[np.bool_]]) -> list[set[str]]:
        """Return the keys of the nearest TOP images that pass each query's mask, all where it is empty."""
        found = []
        for place, mask in enumerate(masks):
            similarities = self.vectors[: self.count] @ self.vectors[self.count + place]
            if mask.size:
                similarities[~mask] = -np.inf
            found.append({str(row) for row in np.argpartition(-similarities, TOP)[:TOP]})
        return found

    def enroll(self, gallery: Gallery) -> float:
        """Enroll all but the queries; return how many a second."""
        start = time.perf_counter()
        gallery.enroll_embeddings(
            self.vectors[: self.count],
            keys=map(str, range(self.count)),
            person_ids=self.people[: self.count],
            camera_ids=self.cameras[: self.count],
            timestamps=self.times[: self.count],
        )
        return self.count / (time.perf_counter() - start)


FilterMaker = Callable[[Drawn, int], tuple[Filters, NDArray[np.bool_]]]


def no_filter(drawn: Drawn, row: int) -> tuple[Filters, NDArray[np.bool_]]:
    """Everything."""
    return Filters(), np.empty(0, np.bool_)


def other_cameras(drawn: Drawn, row: int) -> tuple[Filters, NDArray[np.bool_]]:
    """What other cameras saw: 5 of 6 images."""
    camera = drawn.cameras[row]
    return Filters(exclude_cameras=(str(camera),)), drawn.cameras[: drawn.count] != camera


def one_camera(drawn: Drawn, row: int) -> tuple[Filters, NDArray[np.bool_]]:
    """What camera 0 saw: 1 of 6 images."""
    return Filters(cameras=("0",)), drawn.cameras[: drawn.count] == 0


def same_hours(drawn: Drawn, row: int) -> tuple[Filters, NDArray[np.bool_]]:
    """The two hours around the query: 1 of 12 images."""
    low, high = drawn.times[row] - 3600.0, drawn.times[row] + 3600.0
    times = drawn.times[: drawn.count]
    return Filters(since=float(low), until=float(high)), (times >= low) & (times < high)


FILTERS: dict[str, FilterMaker] = {
    "none": no_filter,
    "not the query's camera": other_cameras,
    "one camera": one_camera,
    "two hours": same_hours,
}


def measured(gallery: Gallery, drawn: Drawn, maker: FilterMaker) -> str:
    """Return a row's p50, p99, queries a second by 8 clients, and recall."""
    pairs = [maker(drawn, row) for row in range(drawn.count, drawn.count + QUERIES)]
    queries = drawn.vectors[drawn.count :]

    def ask(place: int) -> tuple[float, set[str]]:
        start = time.perf_counter()
        found = gallery.search_embeddings(queries[place : place + 1], top=TOP, filters=pairs[place][0])
        return time.perf_counter() - start, {match.entry.key for match in found[0]}

    for place in range(20):
        ask(place)
    answers = [ask(place) for place in range(QUERIES)]
    truth = drawn.truth([mask for _, mask in pairs])
    recall = statistics.mean(len(found & true) / TOP for (_, found), true in zip(answers, truth, strict=True))
    times = 1000 * np.array([seconds for seconds, _ in answers])
    with ThreadPoolExecutor(CLIENTS) as pool:
        start = time.perf_counter()
        list(pool.map(ask, range(QUERIES)))
        rate = QUERIES / (time.perf_counter() - start)
    return f"{np.median(times):.2f} | {np.percentile(times, 99):.2f} | {rate:,.0f} | {recall:.4f}"


def resident_bytes() -> int:
    """Return how much memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def embedded(sizes: list[int]) -> None:
    """Print the tables of the embedded store."""
    tables = ["| vectors | enroll, vectors/s | graph made in, s | open, s | bytes/vector: file | graph | memory |"]
    tables += ["|---|---|---|---|---|---|---|"]
    searches = [
        "| vectors | filter | p50, ms | p99, ms | queries/s, 8 clients | recall@10 |",
        "|---|---|---|---|---|---|",
    ]
    for size in sizes:
        drawn = Drawn(size)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "gallery.db"
            with Gallery.create(path, INFO) as gallery:
                rate = drawn.enroll(gallery)
                start = time.perf_counter()
                gallery.store.wait()  # type: ignore[attr-defined]
                made = time.perf_counter() - start
            before = resident_bytes()
            start = time.perf_counter()
            with Gallery.open(path) as gallery:
                opened = time.perf_counter() - start
                gallery.search_embeddings(drawn.vectors[:1])
                memory = (resident_bytes() - before) / size
                for name, maker in FILTERS.items():
                    searches.append(f"| {size:,} | {name} | {measured(gallery, drawn, maker)} |")
            index = path.with_name(path.name + ".index")
            graph = index.stat().st_size / size if index.exists() else 0
            sizes_text = f"{path.stat().st_size / size:,.0f} | {graph:,.0f} | {memory:,.0f}"
            tables.append(f"| {size:,} | {rate:,.0f} | {made:.1f} | {opened:.2f} | {sizes_text} |")
        print("\n".join([*tables, "", *searches, ""]), flush=True)


@contextlib.contextmanager
def milvus_server() -> Iterator[str]:
    """Run milvus-lite as a server on a free port of loopback; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", scratch, "--host", "127.0.0.1"]
        server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/benchmark"
        finally:
            server.kill()
            server.wait()


def milvus(size: int) -> None:
    """Print what our store adds to a search by pymilvus alone: the two in turn, same arguments."""
    from pymilvus import MilvusClient

    drawn = Drawn(size)
    with milvus_server() as address, Gallery.create(address, INFO) as gallery:
        rate = drawn.enroll(gallery)
        client = MilvusClient(uri=address.rsplit("/", 1)[0])
        client.flush("benchmark")
        ours, theirs = [], []
        fields = ["key", "person_id", "camera_id", "timestamp", "source"]
        for query in drawn.vectors[size : size + 100]:
            start = time.perf_counter()
            gallery.search_embeddings(query[None], top=TOP)
            middle = time.perf_counter()
            options = {"limit": TOP, "output_fields": fields, "search_params": {"params": {"ef": 128}}}
            client.search("benchmark", data=query[None], **options)
            ours.append(middle - start)
            theirs.append(time.perf_counter() - middle)
    added = 1000 * (np.array(ours) - np.array(theirs))
    print("| vectors | enroll, vectors/s | pymilvus alone, p50 ms | our store, p50 ms | what we add, p50 ms |")
    print("|---|---|---|---|---|")
    figures = f"{1000 * np.median(theirs):.2f} | {1000 * np.median(ours):.2f} | {np.median(added):.2f}"
    print(f"| {size:,} | {rate:,.0f} | {figures} |", flush=True)


def real(root: Path) -> None:
    """Print Rank-1 through the gallery beside the evaluator's, and how identification does."""
    dataset, embedder = Market1501(root), Embedder.from_pretrained()
    evaluator = evaluate(embedder, dataset, protocol=Protocol()).rank(1)
    queries = [str(record.path) for record in dataset.query]
    with tempfile.TemporaryDirectory() as scratch, Gallery.open(Path(scratch) / "gallery.db", embedder) as gallery:
        done = gallery.enroll(
            [record.path for record in dataset.gallery],
            person_ids=[record.person_id for record in dataset.gallery],
            camera_ids=[record.camera_id for record in dataset.gallery],
        )
        vectors = embedder.embed(queries)
        found = gallery.search_embeddings(vectors, top=len(dataset.gallery), exact=True)
        first = [first_other(record, [(m.entry.person_id, m.entry.camera_id) for m in matches])
                 for record, matches in zip(dataset.query, found, strict=True)]  # fmt: skip
        scored = [hit for hit in first if hit is not None]
        print(f"enrolled {done.added}, known {done.known}, failed {len(done.failures)}; {len(queries)} queries\n")
        print("| figure | value |\n|---|---|")
        print(f"| Rank-1, evaluator | {evaluator!r} |\n| Rank-1, gallery | {sum(scored) / len(scored)!r} |")
        cameras = [record.camera_id for record in dataset.query]
        for method in ("nearest", "vote", "centroid"):
            for rerank in (False, True):
                who = gallery.identify_embeddings(
                    vectors, method=method, exclude_camera=cameras, closed=True, rerank=rerank
                )
                right = np.mean([one.person_id == str(record.person_id)
                                 for one, record in zip(who, dataset.query, strict=True)])  # fmt: skip
                print(f"| identify, {method}{', re-ranked' if rerank else ''}, closed set | {right:.4f} |")
        tracks = [(record.person_id, record.camera_id) for record in dataset.query]
        print_open_set(gallery, vectors, dataset.query, cameras)
        people = sorted({person for person, _ in tracks})
        fused = gallery.identify_embeddings(vectors, tracks=[person for person, _ in tracks], closed=True)
        right = np.mean([one.person_id == str(person)
                         for one, person in zip(fused, dict.fromkeys(p for p, _ in tracks), strict=True)])  # fmt: skip
        print(f"| identify, all queries of a person fused ({len(people)} people) | {right:.4f} |")
        groups = gallery.cluster()
        print(f"| groups found / names (all distractors have one) | {len(groups)} / {gallery.stats().people} |")
        pure = sum(max_share([entry.person_id for entry in group.entries]) for group in groups)
        print(f"| images whose group is mostly of their person | {pure / gallery.stats().entries:.4f} |")


def first_other(record: Record, ranked: list[tuple[str | None, str | None]]) -> bool | None:
    """Tell whether the first image that is not of the query's own person and camera shows the person, as papers count.

    None where no image of another camera shows the person: such a query is not counted.
    """
    own = (str(record.person_id), str(record.camera_id))
    left = [person for person, camera in ranked if (person, camera) != own]
    return left[0] == own[0] if own[0] in left else None


def print_open_set(
    gallery: Gallery, vectors: NDArray[np.float32], query: tuple[Record, ...], cameras: list[int]
) -> None:
    """Print how often queries of people who are left out of the gallery are unknown, and how the others do."""
    people = sorted({record.person_id for record in query})
    for threshold in (None, 0.55, 0.6, 0.65):
        absent = unknown = present = right = 0
        for part in range(2):  # each person is left out once
            out = set(people[part::2])
            kept = tuple(str(person) for person in {record.person_id for record in query} - out)
            others = (*kept, "0")  # distractors stay
            who = gallery.identify_embeddings(
                vectors, threshold=threshold, exclude_camera=cameras, filters=Filters(persons=others)
            )
            for record, one in zip(query, who, strict=True):
                if record.person_id in out:
                    absent, unknown = absent + 1, unknown + (one.person_id is None)
                else:
                    present, right = present + 1, right + (one.person_id == str(record.person_id))
        said = "calibrated" if threshold is None else f"{threshold}"
        print(f"| open set, threshold {said}: unknown, of people left out | {unknown / absent:.4f} |")
        print(f"| open set, threshold {said}: right, of people in the gallery | {right / present:.4f} |")


def max_share(persons: list[str | None]) -> int:
    """Return how many images of a group show its commonest person."""
    return max(persons.count(person) for person in set(persons))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="Measure the gallery.")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--milvus", type=int, metavar="VECTORS", help="measure the Milvus store instead")
    parser.add_argument("--real", type=Path, metavar="DIR", help="measure Market-1501's layout instead")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.real:
        real(options.real)
    elif options.milvus:
        milvus(options.milvus)
    else:
        embedded(options.sizes)


if __name__ == "__main__":
    main()
