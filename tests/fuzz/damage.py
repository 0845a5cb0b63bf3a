"""JSON documents with something wrong in them: what a fuzzer makes of a good one, in place of bytes that are no JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import copy
from random import Random
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]
"""Keys and indexes that lead from the top of a document to a value in it."""


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


ODD: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, 1e308, float("nan"), float("inf"), -0.5),
    *("", " ", "\0", "\n", "\ud800", "\udcff text", "\u2028", "\x1b[31mred\x1b[0m", "\x1b]0;", "é" * 300, "x" * 5000),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.9-23:59", "2026-11-26T12:00:00", "2026-11-26", "yesterday"),
    *([], {}, [[]], {"": None}, {"\ud800": "\ud800"}, [None, 0, "", {}], _nested(60), _nested(250)),
)
"""Of every kind, from the edges, and what neither a database nor a terminal can take."""

JSON = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)


DEEPEST = 20
"""Keys and indexes of a place; what lies deeper is left as it is."""


def places(document: Any) -> Iterator[Place]:
    """Of every value in a document, itself first."""
    waiting: list[tuple[Place, Any]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        yield place
        if isinstance(value, dict | list) and len(place) < DEEPEST:
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*place, part), found) for part, found in inside]


def at(document: Any, place: Place) -> Any:
    """The value there."""
    for part in place:
        document = document[part]
    return document


def replaced(document: Any, place: Place, value: Any) -> Any:
    """A copy with another value there."""
    if not place:
        return value
    changed = copy(document)
    changed[place[0]] = replaced(document[place[0]], place[1:], value)
    return changed


def removed(document: Any, place: Place) -> Any:
    """A copy without what is there."""
    if not place:
        return None
    around = copy(at(document, place[:-1]))
    del around[place[-1]]
    return replaced(document, place[:-1], around)


@st.composite
def damaged(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """The document with one to `most` of its values replaced or taken out."""
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.sampled_from(list(places(document))))
        if draw(st.booleans()):
            document = replaced(document, place, draw(JSON))
        else:
            document = removed(document, place)
    return document


def mutated(document: Any, random: Random) -> Any:
    """One small change, as a fuzzer makes thousands of them one after the other."""
    everywhere = list(places(document))
    place = random.choice(everywhere)
    value = at(document, place)
    match random.randrange(6):
        case 0:
            return removed(document, place)
        case 1:
            return replaced(document, place, at(document, random.choice(everywhere)))
        case 2 if isinstance(value, list) and value:
            return replaced(document, place, [*value, *random.choices(value, k=random.randint(1, 3))])
        case 3 if isinstance(value, list) and value:
            return replaced(document, place, random.sample(value, len(value)))
        case 4 if isinstance(value, str) and value:
            cut, piece = random.randrange(len(value)), random.choice([text for text in ODD if isinstance(text, str)])
            return replaced(document, place, value[:cut] + piece + value[random.randrange(cut, len(value)) :])
        case 5 if isinstance(value, str) and value:
            return replaced(document, place, value * random.randint(2, 20))
        case _:
            return replaced(document, place, random.choice(ODD))


def as_bytes(document: Any) -> bytes:
    """Any document that `json.loads` gives, in ASCII."""
    return json.dumps(document, separators=(",", ":")).encode()
