"""What happens on the tab Compare, without a browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from serving import CROPS, drawn_gallery
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.app.page_compare import CompareTab
from modelscope_reid.app.service import Service
from modelscope_reid.embedder import Embedder
from modelscope_reid.gallery.gallery import Gallery
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

FIRST, SECOND = str(CROPS[0]), str(CROPS[1])


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompareTab]:
    with drawn_gallery(tmp_path_factory.mktemp("gallery")) as gallery:
        service = Service(gallery)
        yield CompareTab(service)
        service.close()


@pytest.fixture
def transformer(tmp_path: Path) -> Iterator[CompareTab]:
    config = TINY_CONFIGS["pass_vit"]
    embedder = Embedder(TorchRuntime(tiny_model(config, 0), "cpu"), config)
    with Gallery.open(tmp_path / "gallery.db", embedder) as gallery:
        service = Service(gallery)
        yield CompareTab(service)
        service.close()


def test_the_same_picture_twice_is_the_same_person(tab: CompareTab) -> None:
    verdict, why = tab.judge(FIRST, FIRST)
    assert "The same person" in verdict and "同一个人" in verdict and "similarity 1.000" in verdict and why == ""


def test_two_pictures_are_judged_as_by_the_model(tab: CompareTab) -> None:
    similarity, judgement = tab.service.compare(Image.open(FIRST).convert("RGB"), Image.open(SECOND).convert("RGB"))
    verdict, _ = tab.judge(FIRST, SECOND)
    assert judgement is not None and f"similarity {similarity:.3f}" in verdict
    assert f'reid-verdict reid-{judgement.decision}"' in verdict


@pytest.mark.parametrize("paths", [(None, None), (FIRST, None), (None, SECOND)])
def test_two_pictures_are_needed(tab: CompareTab, paths: tuple[str | None, str | None]) -> None:
    assert "Drop two pictures first." in tab.judge(*paths)[0] and tab.explain(*paths) == ""


def test_a_picture_that_cannot_be_read_is_a_sentence(tab: CompareTab, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    broken = str(tmp_path / "a.jpg")
    assert "a.jpg is no image" in tab.judge(FIRST, broken)[0] and "a.jpg is no image" in tab.show(broken)
    assert tab.explain(FIRST, broken) == ""
    assert tab.show(None) == "" and "data:image/jpeg" in tab.show(FIRST)


def test_a_transformer_shows_where_the_two_agree(transformer: CompareTab) -> None:
    assert "not calibrated" in transformer.judge(FIRST, SECOND)[0]
    shown = transformer.explain(FIRST, SECOND)
    found = re.search(r"data:image/png;base64,([\w+/=]+)", shown)
    assert found is not None and "Where the two agree" in shown
    assert Image.open(io.BytesIO(base64.b64decode(found[1]))).width > 500


def test_a_model_of_another_engine_is_opened_in_pytorch_for_it(transformer: CompareTab) -> None:
    service, opened = transformer.service, []

    def explainer() -> Embedder:
        opened.append(True)
        return service.embedder

    with closing(Service(service.gallery, explainer=explainer)) as other:
        tab = CompareTab(other)
        assert opened == []
        assert tab.explain(FIRST, SECOND) == tab.explain(FIRST, SECOND) == transformer.explain(FIRST, SECOND)
    assert opened == [True]


def test_a_model_that_shows_nothing_says_why(transformer: CompareTab) -> None:
    class Elsewhere:
        """An engine other than PyTorch."""

        def __init__(self, runtime: TorchRuntime) -> None:
            self.fingerprint, self.run = runtime.fingerprint, runtime.run

    embedder = transformer.service.embedder
    embedder.runtime = Elsewhere(embedder.runtime)  # type: ignore[assignment, arg-type]
    shown = transformer.explain(FIRST, SECOND)
    assert "This model cannot show where the two agree." in shown and "PyTorch" in shown and "<img" not in shown
