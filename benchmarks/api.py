"""The HTTP API: what micro-batching gives, and whether memory stays flat under it.

    python benchmarks/api.py [--rows 10000] [--seconds 60] [--clients 32] [--runtime auto] [--device cpu]
    python benchmarks/api.py --schemathesis 300          schemathesis against the live server for so many seconds

The real server in a process of its own, over a gallery of drawn people: 60 drawn crops, and vectors around theirs until
there are `--rows`. Another process sends POST /search with one drawn crop each (JPEG, 256x128): one client, one request
after the other, then `--clients` at once, each of which sends its next request as soon as it is answered. Connections
are kept. Batch sizes and the server's memory are read from its own /metrics. Server and clients share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.synthetic import draw_crop, sample_camera
from modelscope_reid.embedder import Embedder
from modelscope_reid.gallery.gallery import Gallery
from modelscope_reid.speed import describe_machine

PEOPLE, CAMERAS, QUERIES = 20, 3, 32
BOUNDARY = "drawn-crops"
SERVER = [sys.executable, "-m", "modelscope_reid", "app"]


def crop(person: int, camera: int, moment: int) -> bytes:
    """Return a drawn crop as a JPEG file."""
    file = io.BytesIO()
    seed = (person * CAMERAS + camera) * 10 + moment
    draw_crop(sample_appearance(person), sample_camera(camera), seed=seed, size=(256, 128)).save(file, "JPEG")
    return file.getvalue()


def make_gallery(path: Path, embedder: Embedder, rows: int) -> None:
    """Enroll drawn crops, and vectors around theirs until there are `rows`."""
    with Gallery.open(path, embedder) as gallery:
        places = [(person, camera) for person in range(PEOPLE) for camera in range(CAMERAS)]
        crops = [crop(person, camera, 0) for person, camera in places]
        people, cameras = zip(*places, strict=True)
        gallery.enroll(crops, person_ids=map(str, people), camera_ids=map(str, cameras))
        random = np.random.default_rng(0)
        vectors = embedder.embed(crops, normalize=True)
        count = max(0, rows - len(crops))
        spread = 1.0 / math.sqrt(vectors.shape[1])
        for start in range(0, count, 10_000):
            near = random.integers(0, len(vectors), min(10_000, count - start))
            noise = spread * random.standard_normal((len(near), vectors.shape[1]), np.float32)
            gallery.enroll_embeddings(vectors[near] + noise, person_ids=near + PEOPLE)


@contextmanager
def server(path: Path, *options: str) -> Iterator[str]:
    """Run the server on a free port; give its address."""
    command = [*SERVER, "--gallery", str(path), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("http://"), f"the server said {line!r}"
        yield line.split()[0]
    finally:
        process.terminate()
        process.wait(30)


def metrics(address: str) -> dict[str, float]:
    """Return what the server tells of itself."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def request_of(content: bytes) -> bytes:
    """Return a whole HTTP request that searches for a crop."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="crop.jpg"\r\n\r\n'
    body = part.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def one_client(
    port: int, requests: list[bytes], *, until: float, seconds: list[float], counts: Counter[str]
) -> None:
    """Send one request after the other until a time; note how long each took, and what it was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    place = 0
    while time.perf_counter() < until:
        start = time.perf_counter()
        writer.write(requests[place % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        status = head[9:12].decode()
        counts[status] += 1
        if status == "200":
            seconds.append(time.perf_counter() - start)
        place += 1
    writer.close()


async def clients(port: int, count: int, duration: float) -> dict[str, object]:
    """Run `count` clients side by side; return what they measured."""
    requests = [request_of(crop(number % PEOPLE, number % CAMERAS, 1 + number)) for number in range(QUERIES)]
    seconds: list[float] = []
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    shifted = [requests[number % QUERIES :] + requests[: number % QUERIES] for number in range(count)]
    until = start + duration
    await asyncio.gather(*(one_client(port, one, until=until, seconds=seconds, counts=counts) for one in shifted))
    return {"seconds": seconds, "counts": counts, "duration": time.perf_counter() - start}


def measured(address: str, count: int, duration: float) -> tuple[str, float]:
    """Return a row of the table, and the requests a second."""
    port = address.rsplit(":", 1)[1]
    command = [sys.executable, __file__, "--client", port, str(count), str(duration)]
    before = metrics(address)
    memory = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        start = time.perf_counter()
        for share in (1 / 6, 1 / 2, 1 - 0.5 / duration):
            time.sleep(max(0.0, start + share * duration - time.perf_counter()))
            memory.append(f"{metrics(address)['process_resident_memory_bytes'] / 2**20:.0f}")
        found = json.loads(process.communicate()[0])
    after = metrics(address)
    images, calls = (
        after[f"modelscope_reid_batch_images_{name}"] - before[f"modelscope_reid_batch_images_{name}"]
        for name in ("sum", "count")
    )
    times = 1000 * np.array(found["seconds"])
    rate = len(times) / found["duration"]
    busy = found["counts"].pop("429", 0)
    other = sum(number for status, number in found["counts"].items() if status != "200")
    row = f"| {count} | {rate:.0f} | {np.median(times):.1f} | {np.percentile(times, 99):.1f} | {images / calls:.1f} | "
    return f"{row}{' | '.join(memory)} | {busy} | {other} |", rate


def compare(options: argparse.Namespace) -> None:
    """Measure one client and many, and print the table."""
    embedder = Embedder.from_pretrained(runtime=options.runtime, device=options.device)
    given = ["--runtime", options.runtime, *(["--device", options.device] if options.device else [])]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "gallery.db"
        make_gallery(path, embedder, options.rows)
        with server(path, *given) as address:
            early, middle, late = (f"{share * options.seconds:.0f} s" for share in (1 / 6, 1 / 2, 1.0))
            print(f"{options.rows:,} entries, {embedder.runtime.name}, {options.seconds:.0f} s each\n")
            print("| clients | requests/s | p50, ms | p99, ms | images a call | MiB after", end=" ")
            print(f"{early} | {middle} | {late} | 429 | other |\n|---|---|---|---|---|---|---|---|---|---|")
            measured(address, options.clients, 3.0)
            row, alone = measured(address, 1, options.seconds)
            print(row, flush=True)
            row, together = measured(address, options.clients, options.seconds)
            print(f"{row}\n\n{together / alone:.2f} times the requests of one client.\n\n{describe_machine()}")


def examine(options: argparse.Namespace) -> None:
    """Run schemathesis against the live server; end with its exit status."""
    tests = Path(__file__).parents[1] / "tests"
    environment = {**os.environ, "PYTHONPATH": str(tests), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "gallery.db"
        make_gallery(path, Embedder.from_pretrained(runtime=options.runtime, device=options.device), 1000)
        with server(path, "--runtime", options.runtime) as address:
            command = [str(Path(sys.executable).with_name("st")), "run", f"{address}/openapi.json"]
            # In a form everything is text: a number where a name is wanted is a name.
            command += ["--checks", "all", "--exclude-checks", "negative_data_rejection", "--continue-on-failure"]
            command += ["--max-time", str(options.schemathesis)]
            raise SystemExit(subprocess.run(command, env=environment, cwd=scratch, check=False).returncode)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="entries of the gallery")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each is measured")
    parser.add_argument("--clients", type=int, default=32, help="how many clients there are at once")
    parser.add_argument("--runtime", default="auto", help="the engine of the server")
    parser.add_argument("--device", help="its device")
    parser.add_argument("--schemathesis", type=int, metavar="SECONDS", help="run schemathesis for so long instead")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        port, count, duration = options.client
        print(json.dumps(asyncio.run(clients(int(port), int(count), float(duration)))))
    elif options.schemathesis:
        examine(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
