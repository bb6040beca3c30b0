"""Who is it? From the hits of a search to a person, or to nobody.

In: unit vectors of queries and a store. Out: an `Identity` for each. `nearest`: the person of the most similar entry.
`vote`: the person with the most votes among the nearest entries, where an entry that is more similar by 0.05
has e times the vote. `centroid`: of the people among
these, the one whose mean vector, over all its entries, is the most similar. Knows nothing of images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.fields import check_fields
from modelscope_reid.gallery.entries import Filters, Identity, Match
from modelscope_reid.gallery.store import Hit, Store
from modelscope_reid.ranking.calibration import Verifier
from modelscope_reid.ranking.expansion import fuse_tracklets
from modelscope_reid.ranking.reranking import rerank as reranked_distances
from modelscope_reid.ranking.similarity import normalize

Method = Literal["nearest", "vote", "centroid"]

VOTE_SLOPE = 20.0
"""A vote is exp(20 similarity): about the odds that two images show one person, as models were calibrated here."""
CANDIDATES = 50
"""How many entries re-ranking puts in a new order."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a person is chosen, and from which similarity on the answer is that person.

    `neighbours`: how many entries vote. `threshold` None is the similarity from which the calibrated model calls two
    images the same person; with `closed` every query is somebody. `rerank`: the nearest 50 are put in order by
    k-reciprocal neighbours first.

    Raises:
        InputError: an unknown method, or fewer than one neighbour.
    """

    method: Method = "nearest"
    neighbours: int = 10
    threshold: float | None = None
    closed: bool = False
    rerank: bool = False

    def __post_init__(self) -> None:
        try:
            check_fields(self)
        except ConfigError as error:
            raise InputError(str(error)) from error
        if self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}; expected 1 or more.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"method": self.method, "neighbours": self.neighbours, "threshold": self.threshold}


def search(
    store: Store,
    queries: NDArray[np.float32],
    *,
    top: int,
    filters: Sequence[Filters],
    exact: bool = False,
    rerank: bool = False,
) -> list[list[Hit]]:
    """Return the `top` hits of each unit vector (Q, D); with `rerank`, the best of 50 candidates in their new order."""
    if not rerank:
        return store.search(queries, top=top, filters=filters, exact=exact)
    candidates = store.search(queries, top=max(top, CANDIDATES), filters=filters, exact=exact)
    return [_reranked(store, query, hits)[:top] for query, hits in zip(queries, candidates, strict=True)]


def _reranked(store: Store, query: NDArray[np.float32], hits: list[Hit]) -> list[Hit]:
    if len(hits) < 2:
        return hits
    vectors = store.vectors([hit.entry.key for hit in hits])
    distances = reranked_distances(query[None], vectors).dense()[0]
    return [hits[place] for place in np.argsort(distances, kind="stable")]


def identify(
    store: Store,
    queries: NDArray[np.float32],
    *,
    filters: Sequence[Filters],
    rule: Rule,
    verifier: Verifier | None = None,
) -> list[Identity]:
    """Return who each of the unit vectors (Q, D) is.

    Raises:
        InputError: an open answer is wanted, and there is neither a threshold nor a calibrated model.
    """
    threshold = _threshold(rule, verifier)
    top = 1 if rule.method == "nearest" else rule.neighbours
    labelled = [one.only_labelled() for one in filters]
    found = search(store, queries, top=top, filters=labelled, rerank=rule.rerank)
    answers = []
    for query, hits in zip(queries, found, strict=True):
        person, similarity = CHOICES[rule.method](store, query, hits)
        probability = None
        if verifier is not None and similarity is not None:
            probability = float(verifier.calibration.probabilities(similarity))
        enough = similarity is not None and (threshold is None or similarity >= threshold)
        answers.append(
            Identity(
                person_id=person if enough else None,
                similarity=similarity,
                probability=probability,
                matches=tuple(judged(hit, verifier) for hit in hits),
            )
        )
    return answers


def judged(hit: Hit, verifier: Verifier | None) -> Match:
    """Return a hit as a match, with what a calibrated model makes of its similarity."""
    if verifier is None:
        return Match(entry=hit.entry, similarity=hit.similarity)
    judgement = verifier.judge(hit.similarity)
    return Match(
        entry=hit.entry,
        similarity=hit.similarity,
        decision=judgement.decision,
        probability=judgement.probability,
    )


def fuse(
    queries: NDArray[np.float32], filters: Sequence[Filters], tracks: Sequence[Any]
) -> tuple[NDArray[np.float32], list[Filters]]:
    """Return one unit vector and one filter for each track, in the order in which tracks first come.

    A track's entries are those that pass the filters of all its queries.

    Raises:
        InputError: another number of tracks than of queries.
    """
    if len(tracks) != len(queries):
        raise InputError(f"{len(queries)} queries and {len(tracks)} tracks; expected one label for each query.")
    numbers = {track: number for number, track in enumerate(dict.fromkeys(tracks))}
    places = np.array([numbers[track] for track in tracks], np.int64)
    merged: list[Filters] = []
    for number in range(len(numbers)):
        own = [one for one, place in zip(filters, places, strict=True) if place == number]
        excluded = tuple(dict.fromkeys(camera for one in own for camera in one.exclude_cameras))
        merged.append(_same(own, excluded))
    return fuse_tracklets(queries, places).vectors, merged


def _same(own: Sequence[Filters], excluded: tuple[str, ...]) -> Filters:
    """Return the one filter that queries of a track share but for their cameras."""
    shared = {replace(one, exclude_cameras=excluded) for one in own}
    if len(shared) > 1:
        raise InputError("queries of one track have filters that differ in more than exclude_cameras; give them one.")
    return shared.pop()


def _threshold(rule: Rule, verifier: Verifier | None) -> float | None:
    """Return the similarity from which a query is somebody; None where every query is."""
    if rule.closed or rule.threshold is not None:
        return None if rule.closed else rule.threshold
    if verifier is None:
        raise InputError(
            "the model is not calibrated, so nothing says who is unknown; pass threshold=, or closed=True if every "
            "query is in the gallery, or calibrate the model with `evaluate --calibrate`."
        )
    return verifier.thresholds.same_from


Choice = tuple[str | None, float | None]


def _nearest(store: Store, query: NDArray[np.float32], hits: Sequence[Hit]) -> Choice:
    return (hits[0].entry.person_id, hits[0].similarity) if hits else (None, None)


def _vote(store: Store, query: NDArray[np.float32], hits: Sequence[Hit]) -> Choice:
    if not hits:
        return None, None
    votes: dict[str | None, float] = defaultdict(float)
    for hit in hits:
        votes[hit.entry.person_id] += float(np.exp(VOTE_SLOPE * hit.similarity))
    person = max(votes, key=lambda name: votes[name])
    return person, max(hit.similarity for hit in hits if hit.entry.person_id == person)


def _centroid(store: Store, query: NDArray[np.float32], hits: Sequence[Hit]) -> Choice:
    persons = tuple(dict.fromkeys(hit.entry.person_id for hit in hits if hit.entry.person_id is not None))
    if not persons:
        return None, None
    sums = {person: np.zeros(len(query)) for person in persons}
    for block in store.blocks(Filters(persons=persons)):
        for entry, vector in zip(block.entries, block.vectors, strict=True):
            sums[str(entry.person_id)] += vector
    similarities = normalize(np.stack(list(sums.values()))) @ query
    best = int(similarities.argmax())
    return persons[best], float(similarities[best])


CHOICES = {"nearest": _nearest, "vote": _vote, "centroid": _centroid}
"""How each method chooses: a person and its similarity to the query."""
