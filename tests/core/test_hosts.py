"""Which hosts a selector means."""

from __future__ import annotations

import contextlib
import itertools
import re
import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.core.errors import Refused
from reconciler.core.hosts import Host, Inventory, match_pattern, natural_key, select
from reconciler.core.manifest import Selector
from reconciler.core.reasons import Reason


def host(name: str, address: str, *tags: str) -> Host:
    return Host(name, address, f"{address}:22", frozenset(tags))


FLEET = Inventory(
    "digest",
    {
        one.name: one
        for one in (
            host("web-10", "10.0.1.10", "web", "eu", "tier=1"),
            host("web-2", "10.0.1.2", "web", "eu", "canary"),
            host("web-1", "10.0.1.1", "web", "us"),
            host("db-1", "2001:db8::1", "db", "eu"),
            host("db-2", "db2.example.org", "db", "us"),
        )
    },
    {
        "all": ("web-10", "web-2", "web-1", "db-1", "db-2"),
        "ungrouped": (),
        "web": ("web-10", "web-2", "web-1"),
        "db": ("db-1", "db-2"),
        "canary": ("web-2",),
        "empty": (),
    },
)


def names(**criteria: object) -> list[str]:
    return [one.name for one in select(FLEET, Selector.model_validate(criteria))]


@pytest.mark.parametrize(
    ("criteria", "chosen"),
    [
        ({"all": True}, ["db-1", "db-2", "web-1", "web-2", "web-10"]),
        ({"tags": ["web", "eu"]}, ["web-2", "web-10"]),
        ({"tags": ["tier=1"]}, ["web-10"]),
        ({"anyTags": ["canary", "db"]}, ["db-1", "db-2", "web-2"]),
        ({"tags": ["web"], "notTags": ["canary", "us"]}, ["web-10"]),
        ({"hosts": ["web-10", "db-1", "web-1"]}, ["web-10", "db-1", "web-1"]),
        ({"hosts": ["web-10", "db-1"], "tags": ["eu"], "search": "web"}, ["web-10"]),
        ({"search": "WEB-"}, ["web-1", "web-2", "web-10"]),
        ({"search": "web-?"}, ["web-1", "web-2"]),
        ({"search": "*.example.org"}, ["db-2"]),
        ({"search": "10.0.1.1"}, ["web-1", "web-10"]),
        ({"search": "10.0.1.0/29"}, ["web-1", "web-2"]),
        ({"search": "2001:db8::/32"}, ["db-1"]),
        ({"pattern": "web:!canary"}, ["web-1", "web-10"]),
    ],
)
def test_every_given_criterion_holds(criteria: dict[str, object], chosen: list[str]) -> None:
    assert names(**criteria) == chosen


def refusal(**criteria: object) -> Refused:
    with pytest.raises(Refused) as refused:
        names(**criteria)
    return refused.value


def test_an_unknown_host_is_refused_with_the_name_that_was_meant() -> None:
    error = refusal(hosts=["web-1", "wbe-2"])
    assert error.reason is Reason.UNKNOWN_HOST
    assert "'wbe-2'" in error.message
    assert "did you mean 'web-2'?" in error.hint


def test_no_match_names_the_criterion_that_removed_the_last_host() -> None:
    error = refusal(tags=["web"], search="db")
    assert error.reason is Reason.NO_HOST_MATCHED
    assert "selector.search" in error.message
    assert "3 hosts that were left" in error.message


def test_no_match_for_a_misspelt_tag_says_which_was_meant() -> None:
    error = refusal(tags=["web", "canry"])
    assert "selector.tags" in error.message
    assert "no host carries the tag 'canry'; did you mean 'canary'?" in error.hint


def test_an_inventory_without_hosts_matches_nothing() -> None:
    with pytest.raises(Refused) as refused:
        select(Inventory("digest", {}), Selector.model_validate({"all": True}))
    assert refused.value.reason is Reason.NO_HOST_MATCHED


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("all", ["web-10", "web-2", "web-1", "db-1", "db-2"]),
        ("web,db-1", ["web-10", "web-2", "web-1", "db-1"]),
        ("!web", ["db-1", "db-2"]),
        ("web:&canary", ["web-2"]),
        ("!canary:web", ["web-10", "web-1"]),
        ("web[0]", ["web-10"]),
        ("web[-1]", ["web-1"]),
        ("web[0:1],db[1:]", ["web-10", "web-2", "db-2"]),
        ("~web-[0-9]$", ["web-2", "web-1"]),
        ("~(web|db)-1$", ["web-1", "db-1"]),
        ("empty", []),
        ("nothing*", []),
    ],
)
def test_patterns(pattern: str, chosen: list[str]) -> None:
    assert list(match_pattern(FLEET, pattern)) == chosen


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("web:!canray", "did you mean 'canary'?"),
        ("", "it is empty"),
        (" : ", "it is empty"),
        ("web:!", "a name must follow"),
        ("web[0", "brackets"),
        ("web[7]", "has 3 hosts"),
        ("web-*[0]", "no order to count in"),
        ("!2001:db8::1,web", "no host or group"),
        ("~web-(", "not a regular expression"),
        ("~" + "a" * 300, "at most 200"),
        ("localhost", "no host or group"),
        (":".join(["web-1"] * 1000), "has 5999 characters, and may have 4096"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        match_pattern(FLEET, pattern)
    assert refused.value.reason is Reason.BAD_PATTERN
    assert says in str(refused.value)


@pytest.mark.parametrize("sign", [":", "[", "web-1:", ",", "!", " ", "[0]", "~", "*:"])
def test_the_longest_pattern_takes_no_time(sign: str) -> None:
    began = time.process_time()
    with contextlib.suppress(Refused):
        match_pattern(FLEET, (sign * 4096)[:4096])
    assert time.process_time() - began < 5, "a look at a job must not stop everything else"


@pytest.mark.parametrize(
    "regex",
    [
        "(a+)+$",
        "(a|a)*$",
        "(.*)*x",
        ".*.*.*.*x",
        "a?" * 30 + "a" * 30,
        "(a|a)" * 30,
        "((a+){9}){9}x",
        r"(a+)\1+",
        "(){4294967294}",
        "((){255}){255}",
        "(((){9}){9}){9}" * 3,
        "(?=a){999}",
        "(a?){99}",
    ],
)
def test_a_regular_expression_that_could_run_away_is_refused(regex: str) -> None:
    with pytest.raises(Refused, match="for ever"):
        match_pattern(FLEET, f"~{regex}")


@pytest.mark.parametrize(
    "regex",
    [
        "web.*",
        "(web|db|cache)-[0-9]+",
        r"web-\d{2}\.eu",
        "(web)(-eu)?",
        "[*+?]",
        "a{2}(b|c)",
        "((a|b){2}-){3}",
        "(){9}",
    ],
)
def test_ordinary_regular_expressions_are_taken(regex: str) -> None:
    match_pattern(FLEET, f"~{regex}")


# Some sets, such as `[||]` and `[[]`, are to mean something else in a later Python; they are taken as this one takes them.
@pytest.mark.filterwarnings("ignore:Possible (nested )?set:FutureWarning")
@given(st.text("ab(|)*+?{}1,.[]^\\", max_size=25))
@example("[]||")
@example("[[]")
def test_whatever_regular_expression_is_taken_ends_soon(regex: str) -> None:
    name = "a" * 40 + "!"
    fleet = Inventory("digest", {name: host(name, "10.0.0.1")}, {"all": (name,), "ungrouped": ()})
    began = time.process_time()
    with contextlib.suppress(Refused):
        match_pattern(fleet, f"~{regex}")
    assert time.process_time() - began < 5


@given(st.lists(st.from_regex(re.compile(r"[a-c]{0,2}[0-9]{1,4}", re.ASCII), fullmatch=True), min_size=1))
def test_natural_order_is_the_order_of_the_numbers(given_names: list[str]) -> None:
    ordered = sorted(given_names, key=natural_key)
    for before, after in itertools.pairwise(ordered):
        if before.rstrip(string.digits) == after.rstrip(string.digits):
            assert int(re.sub("[a-c]", "", before)) <= int(re.sub("[a-c]", "", after))
