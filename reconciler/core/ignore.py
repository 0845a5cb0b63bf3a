"""Which files of a directory are not part of the source: the rules of .reconcilerignore.

They are written as for git (git-scm.com/docs/gitignore): one pattern a line, `#` begins a comment, `!` takes a path in
again, a `/` at the end means folders only, one elsewhere ties the pattern to the root, `**` crosses folders. A folder
that is left out is not looked into, so nothing below it can be taken in again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

IGNORE_FILE = ".reconcilerignore"


@dataclass(frozen=True, slots=True)
class _Rule:
    regex: re.Pattern[str]
    leaves_out: bool
    folders_only: bool


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one file, in its order; the last that matches a path decides."""

    rules: tuple[_Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """Any text is valid: a pattern that makes no sense matches nothing."""
        return cls(tuple(_parse(text)))

    def leaves_out(self, path: str, *, folder: bool) -> bool:
        """`path` is relative to the root of the source, with `/` between its parts."""
        for rule in reversed(self.rules):
            if (folder or not rule.folders_only) and rule.regex.fullmatch(path):
                return rule.leaves_out
        return False

    def leaves_out_below(self, path: str) -> bool:
        """The same for a file of which only the path is known: a rule for one of its folders counts."""
        parts = path.split("/")
        folders = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(self.leaves_out(above, folder=True) for above in folders) or self.leaves_out(path, folder=False)


def _parse(text: str) -> Iterator[_Rule]:
    for line in text.splitlines():
        pattern = re.sub(r"(?<!\\)\s+$", "", line)
        if not pattern or pattern.startswith("#"):
            continue
        leaves_out = not pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        folders_only = pattern.endswith("/")
        pattern = pattern.removesuffix("/")
        if not pattern:
            continue
        tied = "/" in pattern
        try:
            regex = re.compile(_regex(pattern.removeprefix("/") if tied else f"**/{pattern}"), re.DOTALL)
        except re.error:
            continue
        yield _Rule(regex, leaves_out, folders_only)


_TOKENS = re.compile(r"\*+|\[[!^]?\]?+(?:\\.|[^\]\\])*+\]|\\.|.", re.DOTALL)


def _regex(pattern: str) -> str:
    """Where a `*` or `**` is followed by another, the first place that fits is as good as any later one, so that the
    matcher need not come back (`(?>`): else a line of stars would keep it busy for ever."""
    first, *others = _between_crossings(pattern)
    start = "/".join((*map(_name, first), ""))
    if not others:
        return start.removesuffix("/")
    *middle, last = others
    somewhere = (f"(?>(?:[^/]*/)*?{'/'.join(map(_name, parts))}/)" for parts in middle if parts)
    end = f"(?:.*/)?{'/'.join(map(_name, last))}" if last else ".*"
    return "".join((start, *somewhere, end))


def _between_crossings(pattern: str) -> list[list[list[str]]]:
    """The parts of the pattern, each as its tokens, in groups between those that are `**`."""
    groups: list[list[list[str]]] = [[]]
    part: list[str] = []
    for token in (*_TOKENS.findall(pattern), "/"):
        if token != "/":
            part.append(token)
            continue
        if len(part) == 1 and part[0].startswith("**"):
            groups.append([])
        else:
            groups[-1].append(part)
        part = []
    return groups


def _name(tokens: list[str]) -> str:
    """Matches one name of a path."""
    pieces = [""]
    for token in tokens:
        if token.startswith("*"):
            pieces.append("")
        else:
            pieces[-1] += _letter(token)
    first, *others = pieces
    if not others:
        return first
    *middle, last = others
    return "".join((first, *(f"(?>[^/]*?{piece})" for piece in middle if piece), "[^/]*", last))


def _letter(token: str) -> str:
    if token == "?":
        return "[^/]"
    if token == "[":  # one that is never closed: as git, the whole pattern matches nothing
        return "(?!)"
    if token.startswith("["):
        return _one_of(token[1:-1])
    return re.escape(token.removeprefix("\\") or token)


def _one_of(inside: str) -> str:
    """A class of characters: never a slash, and of what `re` reads in one only ranges mean anything."""
    negated = inside[0] in "!^"
    members = re.findall(r"\\.|.", inside[negated:], re.DOTALL)
    escaped = "".join(one if one == "-" else re.escape(one.removeprefix("\\") or one) for one in members)
    return f"(?!/)[{'^' if negated else ''}{escaped}]"
