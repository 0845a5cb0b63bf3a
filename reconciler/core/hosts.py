"""Hosts of an inventory, as values, and which of them a selector means."""

from __future__ import annotations

import difflib
import fnmatch
import ipaddress
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.core.errors import Refused
from reconciler.core.manifest import Selector
from reconciler.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Host:
    """One inventory host.

    `tags` holds plain tags, `key=value` for mappings, and `group:NAME` for each of its groups. `host_key` is what
    locks compare: two hosts with the same key are one machine.
    """

    name: str
    address: str
    host_key: str
    tags: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Inventory:
    """The hosts of one inventory as it was read: `hosts` by name, `groups` with their hosts in inventory order.

    `groups` has every group, nested ones expanded, `all` and `ungrouped` included.
    """

    digest: str
    hosts: Mapping[str, Host]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# == The selector ====================================================================================================
_Hosts = tuple[Host, ...]
_Criterion = Callable[[_Hosts], _Hosts]


def select(inventory: Inventory, selector: Selector) -> tuple[Host, ...]:
    """The hosts for which every given criterion holds: in the order of `selector.hosts`, else sorted as people count
    (web-2 before web-10).

    Raises Refused: UnknownHost, BadPattern, or NoHostMatched, which names the criterion that removed the last host.
    """
    if selector.hosts:
        chosen = tuple(_host_named(name, inventory, index) for index, name in enumerate(selector.hosts))
    else:
        chosen = tuple(sorted(inventory.hosts.values(), key=lambda host: natural_key(host.name)))
    if not chosen:
        raise Refused(Reason.NO_HOST_MATCHED, "the inventory has no hosts")
    for criterion, holds in _criteria(inventory, selector):
        left = holds(chosen)
        if not left:
            raise Refused(
                Reason.NO_HOST_MATCHED,
                f"selector.{criterion} matches none of {_counted(chosen)}",
                _remedy(criterion, inventory, selector),
                ("selector", criterion),
            )
        chosen = left
    return chosen


def natural_key(name: str) -> tuple[str, str]:
    """Sorts numbers inside of names by value, and letters whatever their case. Names that differ in nothing else than
    leading zeros or case keep one fixed order."""
    return natural_text(name), name


def natural_text(name: str) -> str:
    """The same order, of texts that anything can compare: each number with its length before it."""
    return re.sub(r"[0-9]+", _with_length, name.casefold())


def _with_length(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"{len(digits):03}{digits}"


def _host_named(name: str, inventory: Inventory, index: int) -> Host:
    host = inventory.hosts.get(name)
    if host is None:
        hint = _did_you_mean(name, inventory.hosts) or "`ansible-inventory --graph` lists the hosts"
        message = f"selector.hosts names {name!r}, which the inventory does not have"
        raise Refused(Reason.UNKNOWN_HOST, message, hint, ("selector", "hosts", index))
    return host


def _criteria(inventory: Inventory, selector: Selector) -> Iterator[tuple[str, _Criterion]]:
    tags, any_tags, not_tags = frozenset(selector.tags), frozenset(selector.any_tags), frozenset(selector.not_tags)
    if tags:
        yield "tags", lambda hosts: tuple(host for host in hosts if tags <= host.tags)
    if any_tags:
        yield "anyTags", lambda hosts: tuple(host for host in hosts if any_tags & host.tags)
    if not_tags:
        yield "notTags", lambda hosts: tuple(host for host in hosts if not not_tags & host.tags)
    if selector.search:
        found = _searcher(selector.search)
        yield "search", lambda hosts: tuple(host for host in hosts if found(host))
    if selector.pattern:
        named = frozenset(match_pattern(inventory, selector.pattern))
        yield "pattern", lambda hosts: tuple(host for host in hosts if host.name in named)


def _searcher(search: str) -> Callable[[Host], bool]:
    network = _network(search)
    if network is not None:
        return lambda host: _inside(host.address, network)
    wanted = search.casefold()
    if any(sign in wanted for sign in "*?["):
        matches = re.compile(fnmatch.translate(wanted)).match
        return lambda host: any(matches(text.casefold()) for text in (host.name, host.address))
    return lambda host: any(wanted in text.casefold() for text in (host.name, host.address))


def _network(search: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if "/" not in search:
        return None
    try:
        return ipaddress.ip_network(search.strip(), strict=False)
    except ValueError:
        return None


def _inside(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")) in network
    except ValueError:
        return False


def _remedy(criterion: str, inventory: Inventory, selector: Selector) -> str:
    if criterion in ("tags", "anyTags"):
        known = frozenset(tag for host in inventory.hosts.values() for tag in host.tags)
        wanted = selector.tags if criterion == "tags" else selector.any_tags
        for tag in wanted:
            if tag not in known:
                guess = _did_you_mean(tag, known)
                return f"no host carries the tag {tag!r}" + (f"; {guess}" if guess else "")
        return "each of these tags is known, but no host has the combination" if criterion == "tags" else ""
    if criterion == "search" and selector.search and "/" in selector.search and _network(selector.search) is None:
        return f"{selector.search!r} is not a valid address range such as 10.0.0.0/24"
    return ""


def _counted(hosts: tuple[Host, ...]) -> str:
    return "1 host that was left" if len(hosts) == 1 else f"{len(hosts)} hosts that were left"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


# == Ansible's host patterns =========================================================================================
_PATTERN_LENGTH = 4096
_REGEX_LENGTH = 200
_REGEX_WAYS = 64**3
_REGEX_TIMES = 255
"""More than any name has characters: to repeat something more often is to repeat nothing at all."""

_SUBSCRIPT = re.compile(r"(?P<of>.+)\[(?:(?P<index>-?[0-9]+)|(?P<first>[0-9]+)[:-](?P<last>[0-9]*))\]", re.DOTALL)


def match_pattern(inventory: Inventory, pattern: str) -> tuple[str, ...]:
    """Names of the hosts that an Ansible host pattern means, in the order that Ansible gives them.

    As docs.ansible.com/ansible/latest/inventory_guide/intro_patterns.html has it: names, groups and globs separated by
    `,` or `:`; `&` intersects, `!` excludes, whatever their place; `~` begins a regular expression; `[0]`, `[-1]` and
    `[0:2]` pick from what a group holds. Where Ansible passes over a mistake with a warning, it is refused: a plain name that is
    neither host nor group (`web:!canray` would patch the canaries), a subscript beyond the end, and one on a glob,
    whose hosts are in the order in which Ansible read its files, which it tells nobody.

    Raises Refused (BadPattern). No pattern takes long: what could is refused.
    """
    if len(pattern) > _PATTERN_LENGTH:
        why = f"it has {len(pattern)} characters, and may have {_PATTERN_LENGTH}"
        raise _bad_pattern(f"{pattern[:40]}…", why, "list names in selector.hosts, or put them into a group")
    parts = _split_pattern(pattern)
    if not parts:
        raise _bad_pattern(pattern, "it is empty")
    regular = [part for part in parts if part[0] not in "&!"]
    hosts = list(dict.fromkeys(name for part in regular or ["all"] for name in _matches(inventory, part)))
    for part in (part for part in parts if part[0] == "&"):
        kept = frozenset(_matches(inventory, part[1:]))
        hosts = [name for name in hosts if name in kept]
    for part in (part for part in parts if part[0] == "!"):
        dropped = frozenset(_matches(inventory, part[1:]))
        hosts = [name for name in hosts if name not in dropped]
    return tuple(hosts)


def _split_pattern(pattern: str) -> list[str]:
    if "," in pattern:
        return [part for piece in pattern.split(",") for part in _split_pattern(piece)]
    pattern = pattern.strip()
    if _is_address(pattern):
        return [pattern]
    parts = re.findall(r"(?:[^\s:\[\]]|\[[^\]]*\])+", pattern)
    if "".join(parts) != re.sub(r"[\s:]+(?![^\[]*\])", "", pattern):
        raise _bad_pattern(pattern, "its brackets do not match")
    return parts


def _is_address(text: str) -> bool:
    """Whether the colons in it belong to an IPv6 address or a port, and separate nothing."""
    if re.fullmatch(r"[^\s:\[\]&!~*?]+:[0-9]+", text):
        return True
    try:
        ipaddress.IPv6Address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _matches(inventory: Inventory, part: str) -> list[str]:
    if part in inventory.hosts:
        return [part]
    if not part or part[0] in "&!":
        raise _bad_pattern(part, "a name must follow & or !")
    subscript = None if part[0] == "~" else _SUBSCRIPT.fullmatch(part)
    expression = subscript["of"] if subscript else part
    if subscript and any(sign in expression for sign in "*?["):
        raise _bad_pattern(part, "a glob has no order to count in", "name a group before the [")
    hosts = _expand(inventory, expression)
    if subscript is None or not hosts:
        return hosts
    if subscript["index"] is None:
        return hosts[int(subscript["first"]) : int(subscript["last"] or len(hosts)) + 1]
    try:
        return [hosts[int(subscript["index"])]]
    except IndexError:
        raise _bad_pattern(part, f"{expression!r} has {len(hosts)} hosts, counted from 0") from None


def _expand(inventory: Inventory, expression: str) -> list[str]:
    matches = _compile(expression)
    groups = [name for name in inventory.groups if matches(name)]
    hosts = [host for group in groups for host in inventory.groups[group]]
    many = expression[0] == "~" or any(sign in expression for sign in ".?*[")
    if many or not groups:
        hosts += [name for name in inventory.hosts if matches(name)]
    if not hosts and not groups and not (expression[0] == "~" or any(sign in expression for sign in "?*[")):
        hint = _did_you_mean(expression, [*inventory.groups, *inventory.hosts])
        raise _bad_pattern(expression, "the inventory has no host or group of this name", hint)
    return hosts


def _compile(expression: str) -> Callable[[str], re.Match[str] | None]:
    if expression[0] != "~":
        return re.compile(fnmatch.translate(expression)).match
    regex = expression[1:]
    if len(regex) > _REGEX_LENGTH:
        raise _bad_pattern(expression, f"a regular expression may have at most {_REGEX_LENGTH} characters")
    try:
        compiled = re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise _bad_pattern(expression, f"not a regular expression: {error}") from error
    if _ways_to_match(regex) > _REGEX_WAYS:
        raise _bad_pattern(
            expression,
            "this regular expression could take for ever",
            "use at most three of `*` and `+`, none of them after a group that holds one or a `|`, no large {n}, and no (?flags)",
        )
    return compiled.match


def _ways_to_match(regex: str) -> float:
    """An upper bound for the ways in which a backtracking matcher can go through a name, counting 64 for each repeat.

    Python's matcher can't be interrupted, so what could run away is not started. The text is known to compile. Groups
    that it can't judge (flags, conditions, references) count as too many. A `{1,9}` never gets here: its comma separates.
    """
    tokens = re.findall(
        r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:=|!|<=|<!|P<\w+>))?|\)|\||[*+][?+]?|\?[?+]?|\{[0-9]+\}[?+]?|.",
        regex,
        re.DOTALL,
    )
    branch, branches, closed, outer = 1.0, 0.0, 1.0, list[tuple[float, float]]()
    for before, token in itertools.pairwise(["", *tokens]):
        if token[0] == "(":
            outer.append((branch, branches))
            branch, branches = 1.0, 0.0
        elif token == ")":
            closed = branches + branch
            branch, branches = outer.pop()
            branch *= closed
        elif token == "|":
            branch, branches = 1.0, branches + branch
        elif token[0] == "?":
            if before[:1] == "(":
                return math.inf
            branch *= 2
        elif token[0] in "*+":
            if before == ")" and closed > 1:
                return math.inf
            branch *= 64
        elif token[0] == "{" and len(token) > 1:
            times = int(re.sub(r"[^0-9]", "", token))
            if times > _REGEX_TIMES or (before == ")" and times * math.log2(closed) > 64):
                return math.inf
            branch *= times * closed**times if before == ")" else 1
        elif re.match(r"\\[1-9]", token):
            return math.inf
    return branches + branch


def _bad_pattern(part: str, problem: str, hint: str = "") -> Refused:
    return Refused(Reason.BAD_PATTERN, f"selector.pattern: {part!r}: {problem}", hint, ("selector", "pattern"))
