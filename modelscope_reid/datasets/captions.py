"""Captions of people, and which image each belongs to.

In: CUHK-PEDES' `caption_all.json` (Li et al., CVPR 2017), a list of objects with `file_path`, `captions` and `id`, and
the records of a dataset. Out: captions by file name, by record and by person. Knows nothing of tokens or models, and
opens no image.

A record's captions are those of its file name, or else of the first box of its frame, ``name[:-7] + "_00.jpg"``:
Market-1501's `0002_c1s1_000451_03.jpg` is described under `0002_c1s1_000451_00.jpg`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelscope_reid.datasets.checks import refuse
from modelscope_reid.datasets.records import Record
from modelscope_reid.errors import InputError

Captions = Mapping[str, tuple[str, ...]]
"""File name -> what people wrote of the image."""


def read_captions(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read {file name: captions} from the JSON file at `path`.

    The folders of `file_path` are left out, since datasets are unpacked anywhere; a name that files of two people
    (`id`) share says nothing, and is left out too. Empty captions count for nothing.

    Raises:
        InputError: no such file, no JSON, or entries that are no captions.
    """
    path = Path(path)
    entries = _read_entries(path)
    bad = [f"entry {number}" for number, entry in enumerate(entries) if not _is_entry(entry)]
    refuse(
        bad,
        len(entries),
        what=f"entries of {path} have no text 'file_path' or no list of texts 'captions'",
        advice="pass caption_all.json as CUHK-PEDES publishes it.",
    )
    captions: dict[str, list[str]] = defaultdict(list)
    people: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        name = entry["file_path"].replace("\\", "/").rpartition("/")[2]
        captions[name] += [caption.strip() for caption in entry["captions"]]
        people[name].add(str(entry.get("id")))
    told = {name: tuple(filter(None, texts)) for name, texts in captions.items() if len(people[name]) == 1}
    return {name: texts for name, texts in told.items() if texts}


def captions_for(records: Iterable[Record], captions: Captions) -> list[tuple[str, ...]]:
    """Return each record's captions, none where its image has none.

    Raises:
        InputError: no record has a caption.
    """
    records = list(records)
    found = [_of_name(record.path.name, captions) for record in records]
    if records and not any(found):
        described = f", such as {next(iter(captions))!r}" if captions else ""
        raise InputError(
            f"none of {len(records):,} images has a caption: the images have names such as "
            f"{records[0].path.name!r}, the captions are of {len(captions):,} names{described}; "
            "pass the captions of this dataset, its files named as published."
        )
    return found


def captions_by_person(records: Iterable[Record], captions: Captions) -> dict[int, tuple[str, ...]]:
    """Return {person id: captions of all the person's images, each once}, in order of the ids.

    The values therefore stand in the order of `records.person_labels`. Raises as `captions_for` does.
    """
    records = list(records)
    told: dict[int, dict[str, None]] = defaultdict(dict)
    for record, texts in zip(records, captions_for(records, captions), strict=True):
        told[record.person_id].update(dict.fromkeys(texts))
    return {person: tuple(told[person]) for person in sorted(told)}


def _of_name(name: str, captions: Captions) -> tuple[str, ...]:
    return captions.get(name) or captions.get(f"{name[:-7]}_00.jpg", ())


def _read_entries(path: Path) -> Sequence[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"captions {path} cannot be read: {error.strerror}; check the spelling.") from error
    except ValueError as error:  # JSON's and Unicode's errors
        raise InputError(f"{path} does not read as JSON: {error}; fetch it again.") from error
    if not isinstance(content, list) or not content:
        kind = "an empty list" if content == [] else f"a {type(content).__name__}"
        raise InputError(f"{path} holds {kind}; expected a list of objects with file_path and captions.")
    return content


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        return False
    texts = entry.get("captions")
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)
