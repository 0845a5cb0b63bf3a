"""Logs that are too long: what is kept of them, and that it is said what is not."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.loglimit import BESIDE, LogLimit
from reconciler.ports import LogLine

HOSTS = ("web-1", "web-2")


def kept(limit: LogLimit, lines: Iterable[LogLine]) -> list[LogLine]:
    return [*(kept for line in lines for kept in limit.kept(line)), *limit.rest()]


def numbered(count: int, host: str | None = "web-1", text: str = "x" * 94) -> list[LogLine]:
    return [LogLine(host, f"{number:06}{text}") for number in range(count)]


def numbers(lines: Iterable[LogLine]) -> list[int]:
    """Of those that are not marks."""
    return [int(line.text[:6]) for line in lines if not line.text.startswith("…")]


def test_a_log_that_fits_goes_on_at_once_and_is_left_as_it_is() -> None:
    limit = LogLimit(10_000, HOSTS)
    lines = numbered(50)
    assert [kept for line in lines for kept in limit.kept(line)] == lines
    assert list(limit.rest()) == []


def test_what_fits_only_with_the_part_for_the_end_is_whole_too() -> None:
    lines = numbered(9, text="x" * (1000 - BESIDE - 6))
    assert kept(LogLimit(10_000, HOSTS), lines) == lines


def test_of_one_that_is_too_long_the_middle_is_left_out_and_a_line_says_how_much() -> None:
    most = 10_000
    lines = kept(LogLimit(most, HOSTS), numbered(1000))
    marks = [line.text for line in lines if line.text.startswith("…")]
    assert marks == [
        "… max_log_bytes (9.8 KiB) is reached: of what comes now, only the end is kept …",
        "… 934 lines (136.8 KiB) left out: max_log_bytes is 9.8 KiB …",
    ]
    assert numbers(lines) == [*range(50), *range(984, 1000)]
    assert lines[50].text == marks[0], "whoever reads along is told at once"
    assert lines[51].text == marks[1]


def test_each_host_has_a_log_of_its_own_and_so_has_the_run() -> None:
    lines = [*numbered(1000, "web-1"), *numbered(20, "web-2"), *numbered(20, None)]
    found = kept(LogLimit(10_000, HOSTS), lines)
    assert len([line for line in found if line.host == "web-1"]) < 100
    assert numbers(line for line in found if line.host == "web-2") == list(range(20))
    assert numbers(line for line in found if line.host is None) == list(range(20))


def test_what_strangers_say_is_bounded_with_the_log_of_the_run() -> None:
    """A delegate's lines are the run's; there may be many delegates."""
    lines = [LogLine(f"delegate-{number}", "x" * 100) for number in range(10_000)]
    assert sum(len(line.text) for line in kept(LogLimit(10_000, HOSTS), lines)) < 10_000


def test_a_line_that_is_absurdly_long_is_cut_and_marked() -> None:
    (line,) = kept(LogLimit(10 << 20, HOSTS), [LogLine("web-1", "x" * 3_000_000)])
    assert line.text == "x" * 65_536 + "… 2,934,464 more characters of this line left out"


def test_a_text_of_many_lines_is_taken_line_by_line_when_it_is_too_long() -> None:
    text = "\n".join(f"{number:06}" for number in range(50_000))
    found = kept(LogLimit(10 << 20, HOSTS), [LogLine("web-1", text)])
    assert numbers(found) == list(range(50_000))


def test_a_hundred_megabytes_stay_out_of_memory() -> None:
    limit = LogLimit(1 << 20, HOSTS)
    tracemalloc.start()
    try:
        for number in range(100_000):
            for _ in limit.kept(LogLine("web-1", f"{number} {'x' * 1000}")):
                pass
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 << 20


@given(
    most=st.integers(1 << 10, 1 << 13),
    lines=st.lists(st.builds(LogLine, st.sampled_from(["web-1", "web-2", None, "other"]), st.text(max_size=600))),
)
def test_it_never_keeps_more_than_it_may_and_never_changes_the_order(most: int, lines: list[LogLine]) -> None:
    found = kept(LogLimit(most, HOSTS), lines)
    for log in (("web-1",), ("web-2",), (None, "other")):
        mine = [line for line in found if line.host in log and not _is_mark(line)]
        assert sum(len(line.text.encode("utf-8", "replace")) for line in mine) <= most
        if not any(_is_mark(line) for line in found):
            assert "\n".join(line.text for line in mine) == "\n".join(line.text for line in lines if line.host in log)


def _is_mark(line: LogLine) -> bool:
    return re.search("left out|only the end is kept", line.text) is not None
