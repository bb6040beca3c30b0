"""How fast training is here: images a second from JPEG files to a step of the optimiser, in fp32 and in bf16.

    python benchmarks/training.py ROOT [--batches 6] [--rounds 2] [--rows prompts clip pass light cached] [--json]
    python benchmarks/training.py ROOT --device cuda --batches 100 --warm-up 20 --workers 12

ROOT is a dataset in Market-1501's layout. Every row is a stage of a recipe that ships with the package, run as `train`
runs it (stages.py, Lightning's loop, the recipe's batches, losses, augmentation and workers), from random weights, on
which speed does not depend, and stopped after so many batches. Stage 1 trains on image features that a run computes
once: random ones here; so are the text features of stage 2. The first batches warm up and are not counted: the loader's
worker starts in them, and FLOPs are counted in the first. Rows and precisions take turns; each figure is the median
over the rounds. Images a second and the share of waiting for data are those that a run writes into its history.csv.

The share of the matrix product is FLOPs a second of forward and backward, as torch counts them for the whole batch,
over those of one large product in the same precision, measured just before (on the CPU, MKL's or oneDNN's, whichever
is faster).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.flop_counter import FlopCounterMode

from modelscope_reid import ReidError
from modelscope_reid.config import ClipVitConfig
from modelscope_reid.datasets.readers import read_dataset
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.runtimes import onednn
from modelscope_reid.training.callbacks import Checkpoints, HistoryKeeper
from modelscope_reid.training.history import History
from modelscope_reid.training.loop import training_device
from modelscope_reid.training.people import training_split
from modelscope_reid.training.prompt_stage import FeatureDataset, PromptTraining
from modelscope_reid.training.recipe import StageName
from modelscope_reid.training.recipe_files import read_recipe
from modelscope_reid.training.run_folder import RunFolder
from modelscope_reid.training.stages import RunContext, image_module, run, start_model, watchers
from modelscope_reid.training.text_side import TextSide
from modelscope_reid.training.text_stages import random_planner

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}
PRODUCT_TURNS = 7


def convolution_backward_flops(grad_shape: Any, _: Any, weight_shape: Any, *others: Any, **kwargs: Any) -> int:
    """Return the FLOPs of a convolution's gradients, each as many as forward; torch's count is wrong for groups.

    `others` ends with which gradients are taken: of the input, the weight and the bias.
    """
    gradients = sum(others[-1][:2])
    return 2 * gradients * math.prod(grad_shape) * math.prod(weight_shape[1:])


BACKWARD = {torch.ops.aten.convolution_backward: convolution_backward_flops}


@dataclass(frozen=True)
class Row:
    """One line of the table: a stage of a recipe, with fields of the recipe replaced."""

    title: str
    recipe: str
    stage: StageName
    overrides: dict[str, Any]


FINAL_SIZE = {"images.growing_sizes": []}  # the light recipe's crops are smaller at first
ROWS = {
    "prompts": Row("CLIP-ReID stage 1, ViT-B/16's text tower", "clipreid_vit_base", "prompts", {}),
    "clip": Row("CLIP-ReID stage 2, ViT-B/16", "clipreid_vit_base", "images", {}),
    "pass": Row("PASS fine-tuning, ViT-B/16", "pass_vit_base_market", "images", {}),
    "light": Row(
        "light recipe, OSNet x0.5", "osnet_light", "images", {**FINAL_SIZE, "data.cache": False, "data.workers": 1}
    ),
    "cached": Row("light recipe as it is, crops in memory", "osnet_light", "images", FINAL_SIZE),
}


class Stopwatch(Checkpoint):
    """Takes the keeper's figures between two batches, counts the first one's FLOPs, and stops the stage.

    It is called a checkpoint so that Lightning adds none of its own.
    """

    def __init__(self, keeper: HistoryKeeper, *, warm_up: int, batches: int) -> None:
        self.keeper, self.warm_up, self.batches = keeper, warm_up, batches
        self.flops_per_image = 0.0
        self.done = 0
        self._counting = contextlib.ExitStack()
        self._counter: Any = None
        self._before = (0, 0.0, 0.0)
        self._after = (0, 0.0, 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the FLOPs of the very first batch."""
        if not self.done:
            self._counter = self._counting.enter_context(FlopCounterMode(display=False, custom_mapping=BACKWARD))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note where the warm-up ends; stop after the batches that count."""
        if not self.done:
            self._counting.close()
            self.flops_per_image = self._counter.get_total_flops() / len(batch[0])
        self.done += 1
        now = (self.keeper.images, self.keeper.seconds, self.keeper.waited)
        if self.done == self.warm_up:
            self._before = now
        elif self.done == self.warm_up + self.batches:
            self._after = now
            trainer.should_stop = True

    def figures(self) -> dict[str, float]:
        """Return images a second, the share of waiting for data, and FLOPs per image."""
        images, seconds, waited = (after - before for after, before in zip(self._after, self._before, strict=True))
        if seconds <= 0:
            sys.exit("error: an epoch has fewer batches than --warm-up and --batches together; ask for fewer.")
        return {
            "images_per_second": images / seconds,
            "waiting_share": waited / seconds,
            "flops_per_image": self.flops_per_image,
        }


def stage_module(context: RunContext, stage: StageName) -> LightningModule:
    """Return the module that trains a stage, from random weights."""
    recipe, split = context.recipe, context.split
    generator = torch.Generator().manual_seed(recipe.seed)
    model = start_model(context)
    if stage == "images":
        if not recipe.prompts:
            return image_module(context, model)
        assert isinstance(model.config, ClipVitConfig)
        texts = torch.randn(len(split.people), model.config.projection_dim, generator=generator)
        return image_module(context, model, lambda epoch: texts)
    assert recipe.prompts is not None and isinstance(model.config, ClipVitConfig)
    features = torch.randn(len(split.records), model.config.projection_dim, generator=generator)
    planner = random_planner(context, stage, len(features), recipe.prompts.batch_size, model.config.image_size)
    text = TextSide(recipe, split, model.config)
    dataset = FeatureDataset(features, torch.from_numpy(split.labels))
    return PromptTraining(text.start_prompts(), recipe.prompts, features=dataset, planner=planner)


def trial(row: Row, precision: str, dataset: Dataset, options: argparse.Namespace) -> dict[str, float]:
    """Train a few batches of one row in one precision; return its figures."""
    given = {"data.workers": options.workers, "images.batch.people": options.people}
    given |= {"images.batch.images": options.images}
    overrides = {**row.overrides, "precision": precision, **{k: v for k, v in given.items() if v is not None}}
    recipe = read_recipe(row.recipe, overrides)
    if recipe.prompts and (options.people or options.images):
        prompts = dataclasses.replace(recipe.prompts, batch_size=recipe.images.batch.size)
        recipe = dataclasses.replace(recipe, prompts=prompts)
    split = training_split(dataset, held_out_people=recipe.data.held_out_people, seed=recipe.seed)
    device = training_device(options.device)
    rate = product_rate(precision, device)
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder))
        context = RunContext(recipe, RunFolder(Path(folder)), split, device, history, False)
        called = [item for item in watchers(context, row.stage) if not isinstance(item, Checkpoints)]
        keeper = next(item for item in called if isinstance(item, HistoryKeeper))
        stopwatch = Stopwatch(keeper, warm_up=options.warm_up, batches=options.batches)
        stage = getattr(recipe, row.stage)
        run(context, row.stage, stage_module(context, row.stage), 1, stage.optimizer, [*called, stopwatch])
    found = stopwatch.figures()
    share = found["images_per_second"] * found["flops_per_image"] / rate
    batch = recipe.images.batch.size if row.stage == "images" else stage.batch_size
    return {**found, "product_flops": rate, "product_share": share, "batch": batch}


def product_rate(precision: str, device: torch.device) -> float:
    """Return FLOPs a second of one large matrix product, the best of a few turns and of the ways to ask for it."""
    side, dtype = PRODUCT_SIZES[device.type], DTYPES[precision]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    ways: list[Callable[[], Any]] = [lambda: torch.mm(left, right)]
    if device.type == "cpu" and onednn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    best = float("inf")
    for way in ways:
        for _ in range(PRODUCT_TURNS):
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def measure(dataset: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the median figures of each row and precision, which take turns."""
    trials: dict[tuple[str, str], list[dict[str, float]]] = {
        (row, precision): [] for row in options.rows for precision in options.precisions
    }
    for turn in range(options.rounds):
        for row in options.rows:
            for precision in options.precisions[:: 1 if turn % 2 == 0 else -1]:
                found = trial(ROWS[row], precision, dataset, options)
                trials[row, precision].append(found)
                speed = f"{found['images_per_second']:.1f} images/s"
                print(f"round {turn + 1}, {row} {precision}: {speed}", file=sys.stderr)
    return [
        {"row": row, "title": ROWS[row].title, "precision": precision}
        | {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
        | {"rounds": [figures["images_per_second"] for figures in rounds]}
        for (row, precision), rounds in trials.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| stage | precision | batch | images/s | of the rounds | waiting for data | GFLOP an image "
        "| matrix product, TFLOP/s | share of it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['title']} | {row['precision']} | {row['batch']:.0f} | {row['images_per_second']:.1f} "
        f"| {', '.join(f'{speed:.1f}' for speed in row['rounds'])} | {row['waiting_share']:.1%} "
        f"| {row['flops_per_image'] / 1e9:.2f} | {row['product_flops'] / 1e12:.3g} | {row['product_share']:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def machine(device: torch.device) -> str:
    """Return processor or GPU, cores, threads and versions in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    gpu = f"{torch.cuda.get_device_name(device)}; " if device.type == "cuda" else ""
    return (
        f"{gpu}{name}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}, lightning {version('lightning')}; "
        f"load average at the start {json.dumps(os.getloadavg())}"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="dataset in Market-1501's layout")
    parser.add_argument("--batches", type=int, default=6, help="batches that count, in each trial")
    parser.add_argument("--warm-up", type=int, default=2, help="batches before them, 1 or more")
    parser.add_argument("--rounds", type=int, default=2, help="trials of each row and precision")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--device", help="cpu, cuda or cuda:1; by default the first GPU where there is one")
    parser.add_argument("--people", type=int, help="people in a batch; by default the recipe's 16")
    parser.add_argument("--images", type=int, help="images of each; by default the recipe's 4")
    parser.add_argument("--workers", type=int, help="processes that load images; by default the recipe's")
    parser.add_argument("--json", action="store_true", help="figures for machines")
    options = parser.parse_args()
    if min(options.batches, options.warm_up, options.rounds) < 1:
        parser.error("--batches, --warm-up and --rounds are 1 or more")
    logging.disable(logging.WARNING)  # that weights are random is meant so
    try:
        where = machine(training_device(options.device))
        rows = measure(read_dataset("market1501", options.root), options)
    except ReidError as error:
        sys.exit(f"error: {error}")
    about = f"{options.batches} batches after {options.warm_up} of warm-up, median of {options.rounds} rounds"
    print(json.dumps({"machine": where, "about": about, "rows": rows}) if options.json else f"{table(rows)}\n")
    if not options.json:
        print(f"{about}. {where}")


if __name__ == "__main__":
    main()
