"""YAML is read as its author sees it, and everything in it has its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.documents import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_PROBLEMS,
    VAULT_KEY,
    Document,
    Location,
    Problem,
    Unreadable,
    read_documents,
)

PATH = "jobs/a.yaml"


def read(text: str | bytes, *vaulted: Location) -> tuple[Document, ...]:
    data = text.encode() if isinstance(text, str) else text
    found = read_documents(data, PATH, vaulted)
    assert not isinstance(found, Unreadable), found.problem
    return found


def value_of(text: str, *vaulted: Location) -> Any:
    (document,) = read(text, *vaulted)
    assert document.problems == ()
    return document.value


def unreadable(text: str | bytes) -> Problem:
    found = read_documents(text.encode() if isinstance(text, str) else text, PATH)
    assert isinstance(found, Unreadable), found
    return found.problem


def problems_of(text: str) -> list[tuple[int, int, str]]:
    (document,) = read(text)
    assert all(problem.hint for problem in document.problems)
    return [(problem.line, problem.column, problem.message) for problem in document.problems]


# -- scalars ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "y", "22:30", "0644", "0o17", "0x1F", "1_000", "00.5"])
@pytest.mark.parametrize("sign", ["", "+"])
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(sign: str, text: str) -> None:
    assert value_of(f"a: {sign}{text}") == {"a": sign + text}


@pytest.mark.parametrize("text", ["2026-11-23", "2026-11-23T10:00:00Z", "10.1.2.3", "=", "1e", ".", "e5", "-x"])
def test_dates_addresses_and_the_like_are_text(text: str) -> None:
    assert value_of(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("9223372036854775807", 2**63 - 1),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("2.5E-1", 0.25),
    ],
)
def test_numbers_and_constants_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = value_of(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["'3'", '"true"', "|-\n  3", ">-\n  null", "'0644'"])
def test_quoted_and_block_scalars_are_always_text(text: str) -> None:
    assert isinstance(value_of(f"a: {text}")["a"], str)


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999", "9223372036854775808", "1" * 5000])
def test_a_number_that_json_or_a_database_cannot_hold_is_refused(text: str) -> None:
    ((line, column, message),) = problems_of(f"a: {text}")
    assert (line, column) == (1, 4)
    assert message.startswith("the number")


# -- what is refused, and where --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, '"a" is given twice'),
        ("a: {b: 1, b: 2}", 1, 11, '"b" is given twice'),
        ("a: &x 1", 1, 4, "an anchor (&) is not allowed"),
        ("a: 1\nb: *x", 2, 4, "an alias (*) is not allowed"),
        ("<<: {a: 1}", 1, 1, "a merge key (<<) is not allowed"),
        ("a: !!str 1", 1, 4, 'the tag "tag:yaml.org,2002:str" is not allowed'),
        ("a: !python/object x", 1, 4, 'the tag "!python/object" is not allowed'),
        ("a: !set {b: 1}", 1, 4, 'the tag "!set" is not allowed'),
        ("a: !vault x", 1, 4, "!vault is not allowed here"),
        ("1: a", 1, 1, "a key must be text"),
        ("true: a", 1, 1, "a key must be text"),
        ("[a]: b", 1, 1, "a key must be text"),
        ("a: {{ b }}", 1, 5, "a key must be text"),
        ('a: "x\\0y"', 1, 4, "the text has a NUL character"),
    ],
)
def test_what_hides_or_changes_meaning_is_refused_at_its_place(text: str, line: int, column: int, message: str) -> None:
    assert problems_of(text) == [(line, column, message)]


def test_the_other_place_of_a_duplicate_key_is_named() -> None:
    (document,) = read("limit: 1\nother: 2\nlimit: 3\n")
    assert "line 1" in document.problems[0].hint
    assert document.value == {"limit": 1, "other": 2}


def test_what_hangs_on_a_refused_key_is_read_over() -> None:
    (document,) = read("a: {x: 1}\na: {y: [1, {z: 2}]}\nb: 2\n")
    assert document.value == {"a": {"x": 1}, "b": 2}
    assert [problem.line for problem in document.problems] == [2]


def test_a_thousand_mistakes_are_cut_short() -> None:
    (document,) = read("".join(f"a: {number}\n" for number in range(1000)))
    assert len(document.problems) == MAX_PROBLEMS


# -- files that are no YAML ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "line", "column", "said"),
    [
        (b"", 1, 1, "no document"),
        (b"# only a comment\n", 1, 1, "no document"),
        (b"---\n---\n...\n", 1, 1, "no document"),
        (b"a: 1\n\tb: 2\n", 2, 1, "a tab is used to indent"),
        (b"a:\n  \tb: 2\n", 2, 3, "a tab is used to indent"),
        (b"\xef\xbb\xbfa: 1\n", 1, 1, "byte order mark"),
        ("a: 1\n".encode("utf-16"), 1, 1, "UTF-16"),
        (b"a: 1\nb\0c", 2, 2, "binary"),
        (b"\x7fELF\x02\x01\x01\0\0", 1, 8, "binary"),
        (b"a: 1\nname: caf\xe9\n", 2, 10, "0xe9 is not UTF-8"),
        (b"a: 1\nb: \x07", 2, 4, "U+0007"),
        (b"a: [1, 2\nb: 3\n", 2, 2, "a '[' is not closed"),
        (b"a: [1, 2\n\nbcd", 3, 4, "a '[' is not closed"),
        (b"a: 'text\nb: 3\n", 1, 4, "never closed"),
        (b"a: 1\n b: 2\n", 2, 3, "a ':' stands where no key can be"),
        (b"a:\n  - 1\n b: 2\n", 3, 2, "does not fit what stands above"),
        (b"a: @home\n", 1, 4, "can't begin with this character"),
        (b"a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> x\n", 2, 1, "merge conflict"),
        (b"%YAML 3.0\n---\na: 1\n", 1, 1, "another version of YAML"),
    ],
)
def test_a_file_that_is_no_yaml_says_where_and_why(data: bytes, line: int, column: int, said: str) -> None:
    problem = unreadable(data)
    assert (problem.line, problem.column) == (line, column), problem
    assert said in problem.message
    assert problem.hint
    assert str(problem) == f"{PATH}:{line}:{column}: {problem.message}"


def test_a_large_file_is_refused_unread() -> None:
    assert "10,485,760 bytes" in unreadable(b"a" * (10 * 1024 * 1024)).message
    assert value_of("#" * (MAX_BYTES - 5) + "\na: 1") == {"a": 1}


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{a: "])
def test_deep_nesting_is_refused_and_harmless(opening: str) -> None:
    assert unreadable(opening * 100_000).message == f"nested more than {MAX_DEPTH} levels deep"


def test_nesting_is_allowed_up_to_the_limit() -> None:
    assert value_of("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    unreadable("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


# -- several documents -----------------------------------------------------------------------------------------------
def test_empty_documents_are_left_out_and_the_others_counted() -> None:
    found = read("---\n---\na: 1\n---\n# nothing\n---\nb: 2\nb: 3\n")
    assert [(document.number, document.value) for document in found] == [(1, {"a": 1}), (2, {"b": 2})]
    assert found[0].problems == ()
    assert (found[1].problems[0].document, found[1].problems[0].line) == (2, 8)


def test_one_that_cannot_be_parsed_makes_the_file_unreadable() -> None:
    problem = unreadable("a: 1\n---\nb: [\n")
    assert (problem.document, problem.line) == (2, 4)


# -- !vault ----------------------------------------------------------------------------------------------------------
def test_vault_is_read_where_it_is_allowed_and_nowhere_else() -> None:
    text = "spec:\n  vars:\n    password: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      6162\n    deep: [{x: !vault b}]\n"
    below = ("spec", "vars")
    assert value_of(text, below) == {
        "spec": {
            "vars": {
                "password": {VAULT_KEY: "$ANSIBLE_VAULT;1.1;AES256\n6162\n"},
                "deep": [{"x": {VAULT_KEY: "b"}}],
            }
        }
    }
    assert [(line, column) for line, column, _ in problems_of(text)] == [(3, 15), (6, 16)]
    (document,) = read("spec: {vars: !vault x}", below)
    assert "spec.vars" in document.problems[0].hint


# -- places ----------------------------------------------------------------------------------------------------------
NESTED = """\
metadata:
  name: x
spec:
  selector:
    tags: [web, prod]
  list:
    - one
    - two: 2
"""


@pytest.mark.parametrize(
    ("location", "value", "key"),
    [
        ((), (1, 1), (1, 1)),
        (("metadata", "name"), (2, 9), (2, 3)),
        (("spec",), (4, 3), (3, 1)),
        (("spec", "selector", "tags", 1), (5, 17), (5, 17)),
        (("spec", "list", 1, "two"), (8, 12), (8, 7)),
        (("spec", "missing"), (3, 1), (3, 1)),
        (("spec", "selector", "missing", "more"), (4, 3), (4, 3)),
        (("spec", "selector", "tags", 7), (5, 5), (5, 5)),
        (("missing",), (1, 1), (1, 1)),
    ],
)
def test_places_are_found_by_location(location: Location, value: tuple[int, int], key: tuple[int, int]) -> None:
    (document,) = read(NESTED)
    assert document.place(location) == value
    assert document.key_place(location) == key


# -- properties ------------------------------------------------------------------------------------------------------
YAMLISH = st.lists(
    st.sampled_from(
        [*"ab01 \t\n-?:,[]{}#&*!|>'\"%@`~.<=\\", ": ", "- ", "\n  ", "---\n", "...\n", "!vault ", "é", "\r\n", "<<: "]
    )
).map("".join)


@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode(errors="replace")), YAMLISH.map(str.encode)))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    found = read_documents(data, PATH, (("a",),))
    problems = [found.problem] if isinstance(found, Unreadable) else [p for d in found for p in d.problems]
    assert all(p.line >= 1 and p.column >= 1 and p.message and p.path == PATH for p in problems)


PRINTABLE = st.characters(exclude_categories=["Cc", "Cf", "Cn", "Cs", "Zl", "Zp"])
PLAIN_DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(PRINTABLE),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(PRINTABLE).filter(lambda key: key != "<<"), inner),
    max_leaves=20,
).filter(lambda value: value is not None)


@given(PLAIN_DATA)
def test_json_is_read_as_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert json.dumps(value_of(text), ensure_ascii=False) == text
