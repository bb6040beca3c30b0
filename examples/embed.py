"""One image -> its embedding: the first code sample of ModelScope's model card, with this package's one import.

python examples/embed.py                                  the hub's model, a drawn crop
python examples/embed.py --model FOLDER_OR_HUB_ID IMAGE   a model and an image of yours
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modelscope.outputs import OutputKeys
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

import modelscope_reid.modelscope_plugin  # noqa: F401  # the one line: registers our pipeline
from modelscope_reid import ReidError, resolve_model

ASSETS = Path(__file__).parents[1] / "assets"


def main() -> None:
    """Print the embedding of one image."""
    parser = argparse.ArgumentParser(description="Print the embedding of one image.")
    parser.add_argument("image", nargs="?", default=str(ASSETS / "person01_camera1.png"), help="path or URL")
    parser.add_argument("--model", default="damo/cv_passvitb_image-reid-person_market", help="hub id or model folder")
    options = parser.parse_args()

    try:
        # pipeline() takes the hub id as well; the folder on this machine also opens where there is no network.
        image_reid_person = pipeline(Tasks.image_reid_person, model=str(resolve_model(options.model)))
        result = image_reid_person(options.image)
    except ReidError as error:
        sys.exit(f"error: {error}")
    print("result is : ", result[OutputKeys.IMG_EMBEDDING])


if __name__ == "__main__":
    main()
