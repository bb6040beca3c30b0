"""Do two processes on one machine trample each other: images a second of one, and of two side by side.

    python benchmarks/side_by_side.py [--seconds 8]

The light model, batches of 32 ready tensors, each process with as many threads as it takes by itself. PyTorch is
measured as it is, its threads spinning for a while when they wait, and with them asleep (OMP_WAIT_POLICY=PASSIVE), as
the command line has them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

CODE = """
import sys, time
import numpy as np
from modelscope_reid import Embedder
embedder = Embedder.from_pretrained(runtime=sys.argv[1])
images = np.random.default_rng(0).standard_normal((32, 3, *embedder.config.image_size), np.float32)
embedder.runtime.run(images)
print("ready", flush=True)
sys.stdin.readline()
done, start = 0, time.perf_counter()
while time.perf_counter() - start < float(sys.argv[2]):
    embedder.runtime.run(images)
    done += len(images)
print(done / (time.perf_counter() - start), flush=True)
"""
ROWS = (
    ("torch", {}),
    ("torch", {"OMP_WAIT_POLICY": "PASSIVE"}),
    ("openvino", {}),
    ("onnxruntime", {}),
)


def speeds(runtime: str, count: int, environment: dict[str, str], seconds: float) -> list[float]:
    """Return images/s of `count` processes that start together."""
    command = [sys.executable, "-c", CODE, runtime, str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": {**os.environ, **environment}}
    processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in processes]


def main() -> None:
    """Measure and print the table."""
    from modelscope_reid.speed import describe_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is measured")
    options = parser.parse_args()
    print("| runtime | environment | one process, images/s | two, images/s | together, of one |\n|---|---|---|---|---|")
    for runtime, environment in ROWS:
        (one,) = speeds(runtime, 1, environment, options.seconds)
        two = speeds(runtime, 2, environment, options.seconds)
        setting = " ".join(f"{name}={value}" for name, value in environment.items())
        shares = " + ".join(f"{speed:.0f}" for speed in two)
        print(f"| {runtime} | {setting} | {one:.0f} | {shares} | {sum(two) / one:.2f} |", flush=True)
    print(f"\n{describe_machine()}")


if __name__ == "__main__":
    main()
