"""Two images -> how alike they are: the second code sample of ModelScope's model card, with our one import.

python examples/cosine_similarity.py                             the hub's model, two drawn crops of one person
python examples/cosine_similarity.py --model FOLDER_OR_HUB_ID A B   a model and images of yours
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from modelscope.outputs import OutputKeys
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

import modelscope_reid.modelscope_plugin  # noqa: F401  # the one line: registers our pipeline
from modelscope_reid import ReidError, resolve_model

ASSETS = Path(__file__).parents[1] / "assets"


def main() -> None:
    """Print the cosine similarity of two images."""
    parser = argparse.ArgumentParser(description="Print the cosine similarity of two images.")
    parser.add_argument("image_1", nargs="?", default=str(ASSETS / "person01_camera1.png"), help="path or URL")
    parser.add_argument("image_2", nargs="?", default=str(ASSETS / "person01_camera2.png"), help="path or URL")
    parser.add_argument("--model", default="damo/cv_passvitb_image-reid-person_market", help="hub id or model folder")
    options = parser.parse_args()

    try:
        # pipeline() takes the hub id as well; the folder on this machine also opens where there is no network.
        image_reid_person = pipeline(Tasks.image_reid_person, model=str(resolve_model(options.model)))
        result_1 = image_reid_person(options.image_1)
        result_2 = image_reid_person(options.image_2)
    except ReidError as error:
        sys.exit(f"error: {error}")

    feat_1 = result_1[OutputKeys.IMG_EMBEDDING][0]
    feat_2 = result_2[OutputKeys.IMG_EMBEDDING][0]
    print(f"feat_1: {feat_1.shape}")
    print(f"feat_2: {feat_2.shape}")
    cosine = np.dot(feat_1 / np.linalg.norm(feat_1), feat_2 / np.linalg.norm(feat_2))
    print(f"cosine similarity is: {cosine:.4f}")


if __name__ == "__main__":
    main()
