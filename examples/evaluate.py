"""A model and a dataset -> the papers' figures, and a folder of pictures that explain them.

python examples/evaluate.py                                        an OSNet with random weights, a drawn dataset
python examples/evaluate.py --model FOLDER_OR_HUB_ID --root DIR    a model of yours on Market-1501's layout
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from modelscope_reid import Embedder, ReidError, ReidModel
from modelscope_reid.config import BACKBONES
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.evaluation import evaluate
from modelscope_reid.runtimes.torch_runtime import TorchRuntime


def main() -> None:
    """Print mAP, Rank-1 and mINP; write the report where asked."""
    parser = argparse.ArgumentParser(description="Evaluate a model on a dataset in Market-1501's layout.")
    parser.add_argument("--model", help="hub id, model folder or checkpoint; by default random weights, seed 0")
    parser.add_argument("--root", type=Path, help="folder of the dataset; by default one is drawn")
    parser.add_argument("--output", type=Path, help="folder for report.md and its pictures")
    options = parser.parse_args()
    try:
        if options.model:
            embedder = Embedder.from_pretrained(options.model)
        else:
            config = BACKBONES["osnet_x0_25"]
            embedder = Embedder(TorchRuntime(ReidModel.with_seed(config)), config)
        with tempfile.TemporaryDirectory() as scratch:
            root = options.root or write_synthetic_market(Path(scratch), people=20, cameras=4, train_people=1)
            report = evaluate(embedder, Market1501(root), output=options.output)
    except ReidError as error:
        sys.exit(f"error: {error}")
    print(report.summary())
    print(f"mAP {report.mAP:.4f}  Rank-1 {report.rank(1):.4f}  mINP {report.mINP:.4f}")
    print(f"{report.queries_skipped} queries without a true match were skipped")


if __name__ == "__main__":
    main()
