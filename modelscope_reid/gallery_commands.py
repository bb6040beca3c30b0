"""The commands of the gallery: one function each, a thin face of `Gallery`; cli.py puts them among the others.

In: parsed options. Out: text or JSON for stdout, an exit status. Errors are raised, and printed by cli.py.
"""

from __future__ import annotations

import json as json_text
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelscope_reid.errors import InputError

if TYPE_CHECKING:
    from modelscope_reid.gallery.entries import Filters
    from modelscope_reid.gallery.gallery import Gallery

Say = Callable[[str], None]
Method = Literal["nearest", "vote", "centroid"]
Action = Literal["stats", "verify", "delete", "export", "copy", "cluster"]


def enroll(
    images: list[str],
    *,
    gallery: str,
    model: str | None = None,
    person_ids: str | None = None,
    camera_ids: str | None = None,
    pattern: str | None = None,
    batch_size: int = 32,
    no_thumbnails: bool = False,
    device: str | None = None,
    json: bool = False,
) -> int:
    """Embed images and keep them in a gallery; those that are there already are left alone.

    Args:
        images: Image files, URLs or folders; or one table (.csv, .jsonl, .parquet) with path, person_id, camera_id and
            timestamp.
        gallery: File of the gallery, or http://host:19530/name on a Milvus server; made where there is none.
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        person_ids: One name for all images, or one for each, separated by commas.
        camera_ids: One name for all images, or one for each, separated by commas.
        pattern: Regular expression that finds person_id and camera_id in an image's path, such as
            (?P<person_id>\\d+)_c(?P<camera_id>\\d).
        batch_size: Images that go through the network at once.
        no_thumbnails: Keep no small pictures.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        json: Print one JSON object instead of the summary.
    """
    sources, labels = _labelled_images(images, person_ids=person_ids, camera_ids=camera_ids, pattern=pattern)
    with _open(gallery, model=model, device=device, batch_size=batch_size, create=True) as opened:
        done = opened.enroll(sources, **labels, thumbnails=not no_thumbnails, progress=sys.stderr.isatty())
    for failure in done.failures:
        sys.stderr.write(f"skipped: {failure.reason}\n")
    text = f"{gallery}: {done.added} images enrolled, {done.known} were there, {len(done.failures)} skipped"
    _say(json_text.dumps(done.to_dict()) if json else text)
    return 1 if done.failures else 0


def search(
    queries: list[str],
    *,
    gallery: str,
    model: str | None = None,
    top: int = 10,
    exclude_camera: str | None = None,
    camera: str | None = None,
    person: str | None = None,
    since: str | None = None,
    until: str | None = None,
    rerank: bool = False,
    exact: bool = False,
    device: str | None = None,
    json: bool = False,
) -> int:
    """Print the most similar images of a gallery for each query.

    Args:
        queries: Image files, URLs or folders.
        gallery: File of the gallery, or its address on a Milvus server.
        model: The model that the gallery was made with; by default the light model that comes with the package.
        top: How many matches to print for each query.
        exclude_camera: Leave out this camera's images; several cameras, one for each query, separated by commas.
        camera: Only this camera's images; several are separated by commas.
        person: Only images of this person; several are separated by commas.
        since: Only images from this time on, such as 2026-01-31T12:00:00, in UTC where it does not say.
        until: Only images before this time.
        rerank: Put the nearest 50 in order by k-reciprocal neighbours.
        exact: Compare with every image of the gallery.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        json: Print one JSON object for each query instead of the lines.
    """
    from modelscope_reid.datasets.image_files import find_images

    sources, filters = find_images(queries), _filters(camera=camera, person=person, since=since, until=until)
    with _open(gallery, model=model, device=device) as opened:
        options = {"top": top, "exclude_camera": _names(exclude_camera), "exact": exact, "rerank": rerank}
        found = opened.search(sources, filters=filters, **options)
    for source, matches in zip(sources, found, strict=True):
        if json:
            _say(json_text.dumps({"query": source, "matches": [match.to_dict() for match in matches]}))
            continue
        _say(source)
        for place, match in enumerate(matches, start=1):
            entry = match.entry
            seen = f"{entry.person_id or '-'}  camera {entry.camera_id or '-'}  {entry.source}"
            _say(f"{place:>4}  {match.similarity:.4f}  {match.decision or '':<9}  {seen}")
    return 0


def identify(
    queries: list[str],
    *,
    gallery: str,
    model: str | None = None,
    method: Method = "nearest",
    neighbours: int = 10,
    one_person: bool = False,
    exclude_camera: str | None = None,
    threshold: float | None = None,
    closed: bool = False,
    rerank: bool = False,
    device: str | None = None,
    json: bool = False,
) -> int:
    """Print who is on each query: the best person of the gallery, or unknown, with a probability.

    Args:
        queries: Image files, URLs or folders.
        gallery: File of the gallery, or its address on a Milvus server.
        model: The model that the gallery was made with; by default the light model that comes with the package.
        method: nearest: the person of the most similar image. vote: of the nearest images. centroid: whose images are
            on average the most similar, of the people among the nearest.
        neighbours: How many images vote, or bring in their people.
        one_person: All queries show one person, who is named once.
        exclude_camera: Leave out this camera's images; several cameras, one for each query, separated by commas.
        threshold: Cosine similarity from which somebody is known; by default the one that the model was calibrated to.
        closed: Every query is somebody of the gallery; nobody is unknown.
        rerank: Put the nearest 50 in order by k-reciprocal neighbours first.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        json: Print one JSON object for each answer instead of the lines.
    """
    from modelscope_reid.datasets.image_files import find_images

    sources = find_images(queries)
    with _open(gallery, model=model, device=device) as opened:
        found = opened.identify(
            sources,
            method=method,
            neighbours=neighbours,
            tracks=[0] * len(sources) if one_person else None,
            exclude_camera=_names(exclude_camera),
            threshold=threshold,
            closed=closed,
            rerank=rerank,
        )
    for source, one in zip(["all queries"] if one_person else sources, found, strict=True):
        if json:
            _say(json_text.dumps({"query": source, **one.to_dict()}))
            continue
        sure = "" if one.probability is None else f"  probability {one.probability:.3f}"
        near = "nobody is enrolled" if one.similarity is None else f"similarity {one.similarity:.4f}"
        _say(f"{source}: {one.person_id or 'unknown'}  {near}{sure}")
    return 0


def gallery(
    action: Action,
    *,
    gallery: str,
    person: str | None = None,
    output: str | None = None,
    threshold: float | None = None,
    model: str | None = None,
    json: bool = False,
) -> int:
    """Look after a gallery: stats, verify, delete a person, export, copy to another place, or cluster into people.

    Args:
        action: stats counts; verify checks everything; delete removes every trace of --person; export writes --output
            (.npz, .parquet, .jsonl); copy adds all to the gallery at --output; cluster groups the images by person.
        gallery: File of the gallery, or its address on a Milvus server.
        person: Who is to be deleted.
        output: File or gallery to write; for cluster, a contact sheet (.png).
        threshold: For cluster, the cosine similarity of one person's images on average; by default the one from which
            the calibrated model of the gallery calls two images the same person.
        model: For cluster without a threshold, the model that the gallery was made with; by default the light model.
        json: Print one JSON object instead of the text.
    """
    from modelscope_reid.gallery.gallery import Gallery

    if action not in ACTIONS:
        raise InputError(f"{action!r} is nothing to do with a gallery; expected one of {', '.join(ACTIONS)}.")
    given = {"person": person, "output": output, "threshold": threshold}
    missing = [f"--{name}" for name in NEEDED.get(action, ()) if given[name] is None]
    if missing:
        raise InputError(f"gallery {action} needs {' and '.join(missing)}.")
    calibrated = action == "cluster" and threshold is None
    with _open(gallery, model=model, device=None) if calibrated else Gallery.open(gallery) as opened:
        result, text, status = ACTIONS[action](opened, given)
    _say(json_text.dumps(result) if json else text)
    return status


Result = tuple[Any, str, int]
"""JSON values, the same as text, and the exit status."""


def _stats(opened: Gallery, given: dict[str, Any]) -> Result:
    values = {**opened.store.info.to_dict(), **opened.stats().to_dict()}
    return values, "\n".join(f"{name}: {value}" for name, value in values.items()), 0


def _verify(opened: Gallery, given: dict[str, Any]) -> Result:
    findings = opened.verify()
    text = "\n".join(f"{'right' if finding.passed else 'WRONG'}: {finding.sentence}" for finding in findings)
    return [finding.to_dict() for finding in findings], text, 0 if all(one.passed for one in findings) else 1


def _delete(opened: Gallery, given: dict[str, Any]) -> Result:
    count = opened.delete_person(given["person"])
    return {"deleted": count}, f"{count} images of {given['person']} deleted, with every trace of them", 0


def _export(opened: Gallery, given: dict[str, Any]) -> Result:
    count = opened.export(given["output"])
    return {"written": count}, f"{given['output']}: {count} entries", 0


def _copy(opened: Gallery, given: dict[str, Any]) -> Result:
    done = opened.copy_to(given["output"])
    return done.to_dict(), f"{given['output']}: {done.added} entries added, {done.known} were there", 0


def _cluster(opened: Gallery, given: dict[str, Any]) -> Result:
    from modelscope_reid.gallery.clustering import draw_contact_sheet

    groups = opened.cluster(threshold=given["threshold"], thumbnails=given["output"] is not None)
    if given["output"]:
        draw_contact_sheet(groups, Path(given["output"]))
    lines = [f"{len(groups)} people, of {sum(map(len, groups))} images"]
    lines += [f"{len(group):>5}  {group.entries[0].source}" for group in groups[:10]]
    return [[entry.to_dict() for entry in group.entries] for group in groups], "\n".join(lines), 0


ACTIONS: dict[Action, Callable[[Gallery, dict[str, Any]], Result]] = {
    "stats": _stats,
    "verify": _verify,
    "delete": _delete,
    "export": _export,
    "copy": _copy,
    "cluster": _cluster,
}
NEEDED: dict[Action, tuple[str, ...]] = {
    "delete": ("person",),
    "export": ("output",),
    "copy": ("output",),
}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _open(
    gallery: str, *, model: str | None, device: str | None, batch_size: int = 32, create: bool = False
) -> AbstractContextManager[Gallery]:
    from modelscope_reid.embedder import Embedder
    from modelscope_reid.gallery.gallery import Gallery

    return Gallery.open(gallery, Embedder.from_pretrained(model, device=device, batch_size=batch_size), create=create)


def _labelled_images(
    images: Sequence[str], *, person_ids: str | None, camera_ids: str | None, pattern: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the images to enroll, and their labels as `Gallery.enroll` takes them."""
    from modelscope_reid.datasets.image_files import find_images
    from modelscope_reid.gallery.gallery_tables import is_table, read_image_table

    labels: dict[str, Any] = {"person_ids": _names(person_ids), "camera_ids": _names(camera_ids)}
    if len(images) == 1 and is_table(images[0]):
        if person_ids or camera_ids or pattern:
            raise InputError(f"{images[0]} has labels of its own; leave out --person-ids, --camera-ids and --pattern.")
        table = read_image_table(images[0])
        columns = {name: list(getattr(table, name)) for name in ("person_ids", "camera_ids", "timestamps")}
        return list(table.paths), columns
    sources = find_images(images)
    if pattern:
        labels |= _found_in_paths(sources, pattern)
    return sources, labels


def _found_in_paths(sources: Sequence[str], pattern: str) -> dict[str, list[str | None]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern!r} is no regular expression: {error}.") from error
    names = [name for name in ("person_id", "camera_id") if name in compiled.groupindex]
    if not names:
        raise InputError(f"--pattern {pattern!r} has neither (?P<person_id>…) nor (?P<camera_id>…).")
    found = [compiled.search(source) for source in sources]
    if None in found:
        raise InputError(f"--pattern {pattern!r} does not fit {sources[found.index(None)]}.")
    return {f"{name}s": [match[name] if match else None for match in found] for name in names}


def _names(text: str | None) -> list[str] | str | None:
    """Return one name, or those that commas separate."""
    return text.split(",") if text and "," in text else text


def _filters(*, camera: str | None, person: str | None, since: str | None, until: str | None) -> Filters:
    from modelscope_reid.gallery.entries import Filters
    from modelscope_reid.gallery.labels import seconds_of

    filters = Filters(since=seconds_of(since), until=seconds_of(until))
    cameras, persons = (tuple(text.split(",")) if text else () for text in (camera, person))
    return replace(filters, cameras=cameras, persons=persons)
