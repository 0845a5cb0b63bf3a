"""The rules of .reconcilerignore."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.ignore import IgnoreRules


@pytest.mark.parametrize(
    ("rules", "path", "left_out"),
    [
        ("*.log", "a/b/run.log", True),
        ("*.log", "run.logs", False),
        ("/build", "build", True),
        ("/build", "sub/build", False),
        ("build/", "sub/build/x.yml", True),
        ("build/", "build", False),
        ("doc/*.txt", "doc/a.txt", True),
        ("doc/*.txt", "doc/sub/a.txt", False),
        ("doc/**/a.txt", "doc/x/y/a.txt", True),
        ("doc/**/a.txt", "doc/a.txt", True),
        ("doc/**/**/a.txt", "doc/a.txt", True),
        ("a/**/b/**/c", "a/x/b/b/y/c", True),
        ("a/**/b/**/c", "a/b/c", True),
        ("a/**/b/**/c", "a/c/b", False),
        ("*a*b*.c", "xaxabx.c", True),
        ("*a*b*.c", "xbxa.c", False),
        ("**/cache", "x/cache/y", True),
        ("cache/**", "cache/x/y", True),
        ("*.log\n!keep.log", "keep.log", False),
        ("*.log\n!keep.log\nkeep.*", "keep.log", True),
        ("cache/\n!cache/keep", "cache/keep", True),
        ("# *.yml\n\n", "a.yml", False),
        ("\\#odd", "#odd", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[!a]x", "bx", True),
        ("[!a]x", "ax", False),
        ("[a-c].yml", "b.yml", True),
        ("[a-c].yml", "-.yml", False),
        ("[a\\-c].yml", "-.yml", True),
        ("[]a]x", "]x", True),
        ("[^]a]x", "]x", False),
        ("[^]a]x", "bx", True),
        ("[!a]x", "/x", False),
        ("[", "[", False),
        ("[]", "[]", False),
        ("a[", "a", False),
        ("trailing.txt   ", "trailing.txt", True),
        ("/", "anything", False),
    ],
)
def test_the_last_rule_that_matches_decides(rules: str, path: str, left_out: bool) -> None:
    assert IgnoreRules.parse(rules).leaves_out_below(path) is left_out


@pytest.mark.parametrize(
    ("rules", "path"),
    [("*a" * 20 + "b", "a" * 200), ("**/a/" * 20 + "b", "a/" * 200 + "c"), ("*?[a-z]" * 20 + "/b", "a" * 200)],
    ids=["stars", "crossings", "classes"],
)
def test_no_rule_keeps_a_look_busy_for_ever(rules: str, path: str) -> None:
    assert not IgnoreRules.parse(rules).leaves_out_below(path)


@given(st.text(max_size=60), st.text("ab/.*", min_size=1, max_size=20))
def test_any_text_is_a_set_of_rules(rules: str, path: str) -> None:
    IgnoreRules.parse(rules).leaves_out_below(path)
