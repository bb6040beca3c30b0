"""Run or resume a training run in a process of its own, and kill it without warning at a given step of a stage.

python tests/training_driver.py '{"recipe": …, "output": …, "overrides": {…}}'          train
python tests/training_driver.py '{"resume": …}'                                       go on
With "kill": ["images", 3] the process sends itself SIGKILL when the stage's fourth batch begins.
With "file_bytes": N no file can grow beyond N bytes, as on a disk that fills up.
An error that this package raises on purpose ends the process with its text on stderr and status 1.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

import torch

from modelscope_reid.errors import ReidError
from modelscope_reid.training.caption_stage import CaptionTraining
from modelscope_reid.training.image_stage import ImageTraining
from modelscope_reid.training.prompt_stage import PromptTraining
from modelscope_reid.training.training_run import resume, train

MODULES: dict[str, Any] = {"captions": CaptionTraining, "prompts": PromptTraining, "images": ImageTraining}


def kill_at(stage: str, step: int) -> None:
    """Make the stage's batch number `step`, counted from 0, the last thing this process does."""
    module = MODULES[stage]
    original, seen = module.training_step, []

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if len(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(batch_idx)
        return original(self, batch, batch_idx)

    module.training_step = training_step


def main() -> None:
    """Do what the first argument says."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if "kill" in told:
        kill_at(*told["kill"])
    if "file_bytes" in told:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (told["file_bytes"], told["file_bytes"]))
    try:
        run(told)
    except ReidError as error:
        sys.exit(f"error: {error}")


def run(told: dict[str, Any]) -> None:
    """Train or go on."""
    if "resume" in told:
        resume(told["resume"], device="cpu")
    else:
        train(told["recipe"], output=told["output"], overrides=told.get("overrides"), device="cpu")


if __name__ == "__main__":
    main()
