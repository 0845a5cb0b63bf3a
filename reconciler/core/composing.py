"""Composing a manifest: out of what somebody chose, in whatever form, the text that a person would commit.

What a manifest may hold is known in one place, the manifest itself: the text is read back before anybody gets it, and
whatever is wrong with it is said of the field in which the caller chose it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from reconciler.core.documents import Problem
from reconciler.core.manifest import API_VERSION, DEFAULT_MAX_LIMIT, KIND
from reconciler.core.reading import Rejected, parse_manifests

LONGEST_NAME = 63
"""Characters of a name, which is a DNS label."""

LONGEST_LINE = 100
"""Characters of a list that is written on one line."""

NAMED_TAGS = 3
"""Tags that a derived name has; of more, it has their number."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, by the names of the job API. `servers` are host names, in order; with `tags` beside them, those of
    them that carry all of these. `min_hosts` None: as manifests have it by default."""

    playbook: str
    servers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everything: bool = False
    execution_strategy: str = "parallel"
    concurrent_limit: int = 5
    stop_on_failure: bool = False
    name: str | None = None
    inventory: str | None = None
    min_hosts: int | None = None


@dataclass(frozen=True, slots=True)
class Composed:
    """One manifest, as YAML."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a choice is no manifest. `field` is one of Choice, as its caller calls it; empty: none of them alone."""

    field: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


IN_MANIFEST = {
    "name": "metadata.name",
    "playbook": "spec.playbook",
    "inventory": "spec.inventory",
    "servers": "spec.selector.hosts",
    "tags": "spec.selector.tags",
    "execution_strategy": "spec.strategy",
    "concurrent_limit": "spec.limit",
    "stop_on_failure": "spec.stopOnFailure",
    "min_hosts": "spec.minHosts",
}
"""Where each field of a choice stands in the manifest."""


def compose(
    choice: Choice,
    *,
    taken: Callable[[str], bool] = lambda _: False,
    words: Mapping[str, str] | None = None,
    max_limit: int = DEFAULT_MAX_LIMIT,
) -> Composed | tuple[Misfit, ...]:
    """The manifest, or all that is wrong with the choice. Where no name was chosen, one is made that is not `taken`; a
    chosen one is left as it is. `words`: what the caller calls the fields that it calls otherwise than Choice does."""
    called = {field: (words or {}).get(field, field) for field in IN_MANIFEST}
    if wrong := (*_unwritable(choice, called), *_selects_wrongly(choice, called)):
        return wrong
    name = choice.name if choice.name is not None else derive_name(choice, taken)
    text = render_manifest(name, _spec(choice))
    (entry,) = parse_manifests(text.encode(), "manifest", max_limit)
    if isinstance(entry, Rejected):
        return tuple(_misfit(problem, called) for problem in entry.problems)
    return Composed(name, text)


def _unwritable(choice: Choice, called: Mapping[str, str]) -> Iterator[Misfit]:
    """Texts that no file could hold: whoever reads it back could not say in which field they were."""
    for field in called:
        value = getattr(choice, field)
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and re.search("[\0\ud800-\udfff]", text) for text in texts):
            yield Misfit(called[field], f"{called[field]} has a character that is in no text", "Write it anew.")


def _selects_wrongly(choice: Choice, called: Mapping[str, str]) -> Iterator[Misfit]:
    some = bool(choice.servers or choice.tags)
    servers, tags = called["servers"], called["tags"]
    if not some and not choice.everything:
        yield Misfit(servers, "no server is selected", f"Give {servers} or {tags}.")
    if some and choice.everything:
        yield Misfit(servers, f"{servers} or {tags} are given, and all servers too", "Ask for one of them.")


def _spec(choice: Choice) -> Mapping[str, Any]:
    """In the order in which people read it: what, where, how."""
    spec: dict[str, Any] = {"playbook": choice.playbook}
    if choice.inventory is not None:
        spec["inventory"] = choice.inventory
    selector = {"tags": list(choice.tags), "hosts": list(choice.servers), "all": choice.everything}
    spec["selector"] = {key: value for key, value in selector.items() if value}
    spec["strategy"] = choice.execution_strategy
    spec["limit"] = choice.concurrent_limit
    spec["stopOnFailure"] = choice.stop_on_failure
    if choice.min_hosts is not None:
        spec["minHosts"] = choice.min_hosts
    return spec


def _misfit(problem: Problem, called: Mapping[str, str]) -> Misfit:
    """The manifest's own words, of the field as the caller calls it. Which field a problem is of is what its message
    begins with."""
    for field, place in IN_MANIFEST.items():
        rest = problem.message.removeprefix(place)
        if rest != problem.message and not re.match(r"[A-Za-z]", rest):
            return Misfit(called[field], f"{called[field]}{rest}", problem.hint)
    return Misfit("", problem.message, problem.hint)


# -- the text --------------------------------------------------------------------------------------------------------
def render_manifest(name: str, spec: Mapping[str, Any]) -> str:
    """A manifest of plain data, as a person would write it: short lists on one line, long ones an item a line."""
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": dict(spec)}
    text: str = yaml.dump(
        manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their key, and short ones are on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_items(self, items: Sequence[Any]) -> yaml.SequenceNode:
        short = sum(len(str(item)) + 2 for item in items) <= LONGEST_LINE
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(list, _Dumper.represent_items)


# -- a name ----------------------------------------------------------------------------------------------------------
def derive_name(choice: Choice, taken: Callable[[str], bool]) -> str:
    """After what runs and where, such as patch-web-production: a DNS label, with a number where that name is taken. Of
    thousands in a row only a few are asked about."""
    stem = posixpath.splitext(posixpath.basename(choice.playbook.rstrip("/")))[0]
    whole = _label("-".join(part for part in (_label(stem), *map(_label, _where(choice))) if part)) or "batch"

    def named(number: int) -> str:
        end = f"-{number}" if number > 1 else ""
        return f"{whole[: LONGEST_NAME - len(end)].rstrip('-')}{end}"

    last, free = 0, 1
    while taken(named(free)):
        last, free = free, 2 * free
    while free - last > 1:
        between = (last + free) // 2
        if taken(named(between)):
            last = between
        else:
            free = between
    return named(free)


def _where(choice: Choice) -> Sequence[str]:
    if len(choice.servers) == 1:
        return choice.servers
    if choice.servers:
        return (f"{len(choice.servers)}-hosts",)
    if choice.everything:
        return ("all",)
    return choice.tags if len(choice.tags) <= NAMED_TAGS else (f"{len(choice.tags)}-tags",)


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text[:400].lower()).strip("-")[:LONGEST_NAME].rstrip("-")


# -- what there is to choose from ------------------------------------------------------------------------------------
_MAKE_A_PLAY = frozenset({"hosts", "import_playbook", "ansible.builtin.import_playbook"})


def is_playbook(content: bytes) -> bool:
    """Whether this is a list of plays, going by the first: a file of tasks, of variables or of hosts is none. What is no
    YAML is none, and of what is one no more is read than that takes."""
    depth, at_key = 0, True
    try:
        for event in yaml.parse(content, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
                continue
            wanted = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
            if depth < len(wanted) and not isinstance(event, wanted[depth]):
                return False
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
                if depth < len(wanted):  # the first play has ended
                    return False
                at_key = True
            elif depth == len(wanted):
                if at_key and isinstance(event, yaml.ScalarEvent) and event.value in _MAKE_A_PLAY:
                    return True
                at_key = not at_key
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return False
