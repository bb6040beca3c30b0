"""The command app: the page and the HTTP API of one gallery; cli.py puts it among the others.

In: parsed options. Out: one line with the address on stdout, an exit status. Errors are raised, and printed by cli.py.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from modelscope_reid.libraries import require_library
from modelscope_reid.runtimes import Precision, RuntimeChoice

TOKEN_VARIABLE = "MODELSCOPE_REID_TOKEN"


def app(
    *,
    gallery: str | None = None,
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    read_only: bool = False,
    runtime: RuntimeChoice = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    batch_size: int = 32,
) -> int:
    """Serve a gallery: a page for people, and an HTTP API for programs, until Ctrl+C.

    Args:
        gallery: File of the gallery, or http://host:19530/name on a Milvus server; made where there is none. By default
            drawn people, in a gallery that ends with the server.
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        host: Address to listen on; 0.0.0.0 for everybody who can reach this machine.
        port: Port to listen on; 0 takes a free one.
        token: Secret that the API wants as a bearer token, and the page as a password; better given in the environment
            variable MODELSCOPE_REID_TOKEN, which other users of this machine do not see.
        read_only: Nobody may enroll or delete.
        runtime: auto, the fastest exact one here; or torch, openvino, onnxruntime.
        precision: fp32, bf16, fp16; by default fp32, or what an exported folder is in.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        batch_size: Images, of all who ask at the same time, that go through the network at once.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    require_library("gradio")
    from modelscope_reid.app.drawn_gallery import enroll_drawn_people
    from modelscope_reid.app.server import serve
    from modelscope_reid.app.service import Service
    from modelscope_reid.embedder import Embedder
    from modelscope_reid.gallery.gallery import Gallery

    secret = token or os.environ.get(TOKEN_VARIABLE) or None
    if secret is None and not is_loopback(host):
        sys.stderr.write(f"warning: whoever can reach {host} can use this gallery; give a token to keep others out.\n")
    embedder = Embedder.from_pretrained(
        model, runtime=runtime, precision=precision, device=device, batch_size=batch_size
    )
    in_torch = embedder.runtime.name.startswith("torch")
    explainer = None if in_torch else partial(Embedder.from_pretrained, model, runtime="torch", device=device)
    with ExitStack() as stack:
        if gallery is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="modelscope-reid-app-"))
            opened = stack.enter_context(Gallery.open(Path(folder, "drawn people.db"), embedder))
            enroll_drawn_people(opened)
        else:
            opened = stack.enter_context(Gallery.open(gallery, embedder, create=not read_only))
        service = Service(opened, read_only=read_only, explainer=explainer)
        stack.callback(service.close)
        serve(service, host=host, port=port, token=secret, announce=_say)
    return 0


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
