"""How fast, and how equal: every runtime against what people use today, on the same weights and the same JPEG files.

    python benchmarks/embed.py DIR [--models pass_256 …] [--systems "openvino fp32" …] [--count 24] [--rounds 3]

DIR holds JPEG crops. For PASS ViT-B/16 the base is the stock ModelScope pipeline (one by one, as a list, and with
`batch_size` 8, 16 and 32: the best of them counts); for the others, which ModelScope cannot open, the same network in
plain eager PyTorch. Each system lives in a process of its own and they take turns: every figure is the median over the
rounds, and ratios compare turns of one run on one machine. Weights are random numbers (seed 0): speed does not depend
on them, and equality is measured against the base's embeddings. int8 is exported here first, calibrated on the last
crops of DIR, which are not among those measured.

The roof is the machine's own rate for a chain of matrix products in the same precision, through OpenVINO (oneDNN),
measured in the same rounds; a row's share is its images a second times the network's FLOPs over that rate.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.config import (
    ClipResNetConfig,
    ClipVitConfig,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    Preprocessing,
)

STOCK, EAGER = "stock ModelScope", "eager PyTorch"
BATCH_SIZES = (8, 16, 32)
ONE_BY_ONE, LIST = "one by one", "a list"
SINGLES = 6
"""Crops of a turn that go one by one."""
ROOF_SIZE, ROOF_LAYERS = 1536, 6


@dataclass(frozen=True)
class Subject:
    """A network to measure, and what it is measured against."""

    title: str
    config: ModelConfig
    base: str


def pass_config(size: tuple[int, int]) -> PassVitConfig:
    """Return the hub model's config at another size; its classifier makes the stock pipeline take it."""
    return PassVitConfig(num_classes=751, preprocessing=Preprocessing(image_size=size))


SUBJECTS = {
    "pass_256": Subject("PASS ViT-B/16 at 256x128", pass_config((256, 128)), STOCK),
    "pass_384": Subject("PASS ViT-B/16 at 384x128", pass_config((384, 128)), STOCK),
    "clip_vit": Subject("CLIP ViT-B/16 at 256x128", ClipVitConfig(), EAGER),
    "clip_rn50": Subject("CLIP RN50 at 256x128", ClipResNetConfig(), EAGER),
    "osnet": Subject("OSNet x1.0 at 256x128", OsnetConfig(), EAGER),
}
SYSTEMS = {
    "torch fp32": ("torch", "fp32"),
    "openvino fp32": ("openvino", "fp32"),
    "onnxruntime fp32": ("onnxruntime", "fp32"),
    "torch bf16": ("torch", "bf16"),
    "openvino bf16": ("openvino", "bf16"),
    "onnxruntime int8": ("onnxruntime", "int8"),
    "openvino int8": ("openvino", "int8"),
}
FORMATS = {"openvino": "openvino", "onnxruntime": "onnx"}
Embed = Callable[[list[str]], NDArray[np.float32]]


def stock_rows(folder: str) -> dict[str, Embed]:
    """Return the ways to call the stock pipeline."""
    import torch
    from modelscope.pipelines import pipeline

    torch.manual_seed(0)
    reid = pipeline("image-reid-person", model=folder, device="cpu")
    assert type(reid).__module__.split(".")[0] == "modelscope", type(reid)

    def joined(outputs: list[dict[str, Any]]) -> NDArray[np.float32]:
        return np.concatenate([output["img_embedding"] for output in outputs])

    return {
        ONE_BY_ONE: lambda paths: joined([reid(path) for path in paths]),
        LIST: lambda paths: joined(reid(paths)),
        **{f"batch_size={n}": lambda paths, n=n: joined(reid(paths, batch_size=n)) for n in BATCH_SIZES},
    }


def eager_rows(folder: str) -> dict[str, Embed]:
    """Return the ways to call the bare network with PyTorch's own operators."""
    import torch

    from modelscope_reid.images import load_image
    from modelscope_reid.models.checkpoints import load_checkpoint
    from modelscope_reid.preprocess import resize, to_batch

    network = load_checkpoint(folder)[0].eval()
    preprocessing = network.config.preprocessing

    @torch.inference_mode()
    def batch(paths: list[str]) -> NDArray[np.float32]:
        crops = [resize(load_image(path), preprocessing) for path in paths]
        return network(torch.from_numpy(to_batch(crops, preprocessing))).numpy()

    def batches(paths: list[str], size: int) -> NDArray[np.float32]:
        return np.concatenate([batch(paths[place : place + size]) for place in range(0, len(paths), size)])

    return {
        ONE_BY_ONE: lambda paths: batches(paths, 1),
        **{f"batches of {n}": lambda paths, n=n: batches(paths, n) for n in BATCH_SIZES},
    }


def our_rows(folder: str, runtime: str, precision: str) -> dict[str, Embed]:
    """Return the two ways to call `Embedder`."""
    from modelscope_reid import Embedder

    embedder = Embedder.from_pretrained(folder, runtime=runtime, precision=precision)
    assert (embedder.runtime.name.split()[0], embedder.runtime.precision) == (runtime, precision)
    return {
        ONE_BY_ONE: lambda paths: np.concatenate([embedder.embed(path) for path in paths]),
        LIST: lambda paths: embedder.embed(paths),
    }


def serve(system: str, folder: str, channel: Connection) -> None:
    """Open `system` and answer (row, paths) with (seconds, embeddings) until told None."""
    logging.disable(logging.WARNING)
    opener = {STOCK: stock_rows, EAGER: eager_rows}.get(system)
    rows = opener(folder) if opener else our_rows(folder, *SYSTEMS[system])
    channel.send(list(rows))
    while (message := channel.recv()) is not None:
        row, paths = message
        start = time.perf_counter()
        vectors = rows[row](paths)
        channel.send((time.perf_counter() - start, vectors))


@dataclass
class Worker:
    """The process of one system, and what it has shown: seconds per image by row, and its embeddings."""

    channel: Connection
    process: Any
    rows: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def start(cls, system: str, folder: Path) -> Worker:
        """Start a process and wait until its model is open."""
        here, there = multiprocessing.Pipe()
        arguments = (system, str(folder), there)
        process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
        process.start()
        there.close()
        return cls(here, process, here.recv())

    def take_turn(self, paths: list[str], *, count: bool = True) -> None:
        """Run every row once."""
        for row in self.rows:
            given = paths[:SINGLES] if row == ONE_BY_ONE else paths
            self.channel.send((row, given))
            seconds, vectors = self.channel.recv()
            if count:
                self.seconds.setdefault(row, []).append(seconds / len(given))
            if row != ONE_BY_ONE:
                self.vectors = vectors

    def stop(self) -> None:
        """End the process."""
        self.channel.send(None)
        self.process.join()

    @property
    def single(self) -> float:
        """Seconds of one image by itself."""
        return statistics.median(self.seconds[ONE_BY_ONE])

    @property
    def best(self) -> float:
        """Seconds per image of its best call."""
        return min(statistics.median(values) for values in self.seconds.values())


class Roof:
    """The rate of a chain of matrix products through OpenVINO in one precision."""

    def __init__(self, precision: str) -> None:
        import openvino
        from openvino import opset13 as op

        dice = np.random.default_rng(0)
        x = inputs = op.parameter([ROOF_SIZE, ROOF_SIZE], np.float32)
        for _ in range(ROOF_LAYERS):
            weight = op.constant(dice.standard_normal((ROOF_SIZE, ROOF_SIZE), np.float32) / ROOF_SIZE**0.5)
            if precision == "int8":
                x = op.fake_quantize(x, -4.0, 3.96875, -4.0, 3.96875, 256)  # symmetric around zero: int8, not uint8
                weight = op.fake_quantize(weight, -0.15, 0.15, -0.15, 0.15, 255)
            x = op.matmul(x, weight, False, False)
        hints = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        model = openvino.Model([x], [inputs])
        self.request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
        self.image = dice.standard_normal((ROOF_SIZE, ROOF_SIZE), np.float32)
        self.rates: list[float] = []
        self.request.infer([self.image])

    def take_turn(self) -> None:
        """Measure once, the best of three."""
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            self.request.infer([self.image])
            seconds.append(time.perf_counter() - start)
        self.rates.append(ROOF_LAYERS * 2 * ROOF_SIZE**3 / min(seconds))

    @property
    def rate(self) -> float:
        """FLOPs a second."""
        return statistics.median(self.rates)


def flops_per_image(config: ModelConfig) -> int:
    """Return the FLOPs of one image as torch counts them: two for a multiplication and addition."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from modelscope_reid.models.reid_model import ReidModel

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        ReidModel.with_seed(config)(torch.zeros(1, 3, *config.image_size))
    return counter.get_total_flops()


def prepare(subject: Subject, systems: list[str], calibration: Path, folder: Path) -> dict[str, Path]:
    """Write the model folder, and the int8 exports that `systems` want; return the folder of each system."""
    from modelscope_reid import save_pretrained
    from modelscope_reid.model_export import export_model
    from modelscope_reid.models.reid_model import ReidModel

    save_pretrained(ReidModel.with_seed(subject.config), folder / "model")
    places = dict.fromkeys([subject.base, *systems], folder / "model")
    for system in systems:
        runtime, precision = SYSTEMS[system]
        if precision == "int8":
            places[system] = folder / system.replace(" ", "_")
            format_name = FORMATS[runtime]
            export_model(
                folder / "model", places[system], format=format_name, precision="int8", calibration=calibration
            )
    return places


def measure(
    places: dict[str, Path], paths: list[str], rounds: int, precisions: set[str]
) -> tuple[dict[str, Worker], dict[str, float]]:
    """Let all systems and roofs take turns; return the workers and the rate of each precision."""
    workers = {system: Worker.start(system, folder) for system, folder in places.items()}
    roofs = {precision: Roof(precision) for precision in sorted(precisions)}
    for worker in workers.values():
        worker.take_turn(paths, count=False)
    for turn in range(rounds):
        order = list(workers.values())
        for worker in order if turn % 2 == 0 else order[::-1]:
            worker.take_turn(paths)
        for roof in roofs.values():
            roof.take_turn()
    for worker in workers.values():
        worker.stop()
    return workers, {precision: roof.rate for precision, roof in roofs.items()}


def report(subject: Subject, workers: dict[str, Worker], rates: dict[str, float]) -> str:
    """Return one network's table as Markdown."""
    base = workers[subject.base]
    flops = flops_per_image(subject.config)
    lines = [
        f"### {subject.title}",
        "",
        f"| system | one image, ms | of {subject.base}'s | images/s | times {subject.base}'s best | share of the roof "
        "| cosine, mean / min |",
        "|---|---|---|---|---|---|---|",
    ]
    for system, worker in workers.items():
        precision = SYSTEMS.get(system, ("", "fp32"))[1]
        share = flops / worker.best / rates[precision]
        a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (base.vectors, worker.vectors))
        cosines = (a.astype(np.float64) * b).sum(axis=1)
        equal = "" if worker is base else f"{cosines.mean():.6f} / {cosines.min():.6f}"
        lines.append(
            f"| {system} | {1000 * worker.single:.1f} | {worker.single / base.single:.2f} | {1 / worker.best:.1f} "
            f"| {base.best / worker.best:.2f} | {100 * share:.0f} % | {equal} |"
        )
    roofs = ", ".join(f"{precision} {rate / 1e9:.0f}" for precision, rate in rates.items())
    return "\n".join(
        [*lines, "", f"{flops / 1e9:.2f} GFLOP an image; roof in GFLOP/s: {roofs}.", *_calls(subject, base), ""]
    )


def _calls(subject: Subject, base: Worker) -> list[str]:
    speeds = (f"{row} {1 / statistics.median(values):.2f}" for row, values in base.seconds.items())
    return [f"{subject.base}, images/s: {', '.join(speeds)}."]


def main() -> None:
    """Measure the networks asked for and print a table each."""
    from modelscope_reid.speed import describe_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of JPEG crops, 64 more than --count at least")
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--count", type=int, default=24, help="crops to embed in each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system")
    options = parser.parse_args()
    paths = sorted(path.resolve() for path in options.folder.rglob("*.jpg"))
    if len(paths) < options.count + 64:
        parser.error(f"{options.folder} holds {len(paths)} .jpg files; {options.count + 64} are needed")
    precisions = {"fp32", *(SYSTEMS[system][1] for system in options.systems)}
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            calibration = Path(folder) / "calibration"
            calibration.mkdir()
            for path in paths[options.count :][-300:]:
                (calibration / path.name).symlink_to(path)
            places = prepare(SUBJECTS[name], options.systems, calibration, Path(folder))
            measured = [str(path) for path in paths[: options.count]]
            workers, rates = measure(places, measured, options.rounds, precisions)
        print(report(SUBJECTS[name], workers, rates), flush=True)
    print(f"{options.count} JPEG files, median of {options.rounds} turns. {describe_machine()}")


if __name__ == "__main__":
    main()
