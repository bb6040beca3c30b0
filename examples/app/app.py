"""A ModelScope studio: drawn people in a gallery, and the page over it, on the studio's port.

python app.py                  a gallery that ends with the program; anybody may look, nobody may enrol or delete
GALLERY=FILE python app.py     a gallery to keep; WRITABLE=1 lets everybody who comes enrol and delete
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from modelscope_reid import Embedder, Gallery, ReidError
from modelscope_reid.app.drawn_gallery import enroll_drawn_people
from modelscope_reid.app.server import serve
from modelscope_reid.app.service import Service


def main() -> None:
    """Open the gallery and serve it until the program is ended."""
    host, port = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"), int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            place = os.environ.get("GALLERY") or str(Path(scratch) / "gallery.db")
            with Gallery.open(place, Embedder.from_pretrained()) as gallery:
                enroll_drawn_people(gallery)
                service = Service(gallery, read_only=os.environ.get("WRITABLE") != "1")
                try:
                    serve(service, host=host, port=port, announce=lambda address: print(address, flush=True))
                finally:
                    service.close()
    except ReidError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
