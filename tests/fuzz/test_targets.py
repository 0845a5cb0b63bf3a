"""A short run of what `make fuzz` does for minutes: the corpus, and inputs made out of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as driver
from tests.fuzz import bounds
from tests.fuzz.bounds import bounded
from tests.fuzz.damage import as_bytes, damaged
from tests.fuzz.targets import CORPUS, TARGETS, inputs_of

GOOD = {"delegated", "groups-and-hosts", "job", "looped", "rescued", "retried", "source", "unreachable"}
"""Documents with nothing wrong in them: damage is done to these."""

INPUTS = [(name, path) for name in TARGETS for path in inputs_of(name)]
TEXTS = [name for name, target in TARGETS.items() if not target.document]
DOCUMENTS = [(name, path) for name, path in INPUTS if TARGETS[name].document and path.stem in GOOD]


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_what_was_found_once_breaks_nothing_any_more(name: str, path: Path) -> None:
    with bounded():
        TARGETS[name](path.read_bytes())


def test_what_hangs_is_stopped_and_what_fills_the_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 0.2)
    with pytest.raises(TimeoutError), bounded():
        re.match(r"(a+)+$", "a" * 60 + "b")
    with pytest.raises(MemoryError), bounded():
        bytes(2 * bounds.MEGABYTES * 2**20)
    assert len(bytes(2 * bounds.MEGABYTES * 2**20)) > 0


def test_every_target_has_a_corpus_and_nothing_else_has_one() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50)
@given(data=st.binary(max_size=200))
def test_no_bytes_break_a_promise(name: str, data: bytes) -> None:
    TARGETS[name](data)


def pieces_of(name: str) -> list[bytes]:
    """Of what an input is made: words that mean something, and the lines of the corpus, whole and in halves."""
    lines = {
        line for path in inputs_of(name) for line in path.read_bytes().splitlines(keepends=True) if len(line) < 500
    }
    halves = {piece for line in lines for piece in re.split(rb"(?<=[ ,:/\[])", line) if piece}
    return [*(word.encode() for word in TARGETS[name].words), *sorted(lines), *sorted(halves)]


PIECES = {name: pieces_of(name) for name in TEXTS}


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=150)
@given(data=st.data())
def test_nothing_that_is_put_together_from_pieces_breaks_a_promise(name: str, data: st.DataObject) -> None:
    TARGETS[name](b"".join(data.draw(st.lists(st.sampled_from(PIECES[name]), max_size=30))))


@pytest.mark.parametrize(("name", "path"), DOCUMENTS, ids=[f"{name}-{path.stem}" for name, path in DOCUMENTS])
@settings(max_examples=50)
@given(data=st.data())
def test_no_damage_to_a_document_breaks_a_promise(name: str, path: Path, data: st.DataObject) -> None:
    TARGETS[name](as_bytes(data.draw(damaged(json.loads(path.read_bytes())))))


# -- make fuzz -------------------------------------------------------------------------------------------------------
def test_where_there_is_no_atheris_nothing_is_fuzzed_and_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert driver.main() == 0
    assert capsys.readouterr().out.startswith("skipped: atheris has no wheel")


def test_an_input_that_was_found_can_be_executed_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = tmp_path / "crash"
    found.write_bytes(b"[")
    monkeypatch.setattr("sys.argv", ["fuzz", "settings", "--input", str(found)])
    assert driver.main() == 0


def test_words_are_written_as_libfuzzer_reads_them() -> None:
    assert driver.dictionary(['"a\\', "é\n"]) == '"\\x22\\x61\\x5c"\n"\\xc3\\xa9\\x0a"\n'
