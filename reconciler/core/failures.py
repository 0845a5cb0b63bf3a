"""What failed, told so that a person reads it once: children with one cause are one group, however many they are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from reconciler.core.facts import Child, ChildStatus
from reconciler.core.reasons import Reason
from reconciler.core.status import FailureGroup

MAX_MESSAGE = 1000
"""Characters of a message in a status; the child's log has it whole."""

EXAMPLES = 5
"""Hosts named as examples of one failure."""

HOST = "<host>"
"""In the message of a group, where each of its hosts has its own name or address."""

_BY_CHANCE = re.compile(r"ansible-tmp-[\d.-]+|(?<=/cp/)[0-9a-f]{8,}|\b0x[0-9a-f]{6,}\b")
"""What differs from run to run and means nothing: Ansible's temporary folders, sockets of ssh, addresses in memory."""


def group_failures(children: Sequence[Child]) -> tuple[FailureGroup, ...]:
    """Unsuccessful children by task and message, largest group first: forty failures of one cause are one line, also
    if each message has its host's own name or address in it."""
    groups: defaultdict[tuple[str | None, str, Reason | None, ChildStatus], list[Child]] = defaultdict(list)
    for child in children:
        if child.status.unsuccessful:
            groups[child.task, _without_its_own(child), child.reason, child.status].append(child)
    largest_first = sorted(groups.items(), key=lambda item: -len(item[1]))
    return tuple(
        FailureGroup(
            task=task,
            message=short(members[0].message if len({child.message for child in members}) == 1 else message),
            reason=reason,
            status=status,
            hosts=len(members),
            examples=tuple(child.host for child in members[:EXAMPLES]),
        )
        for (task, message, reason, status), members in largest_first
    )


def _without_its_own(child: Child) -> str:
    """The message as every host with this failure would have it."""
    text = _BY_CHANCE.sub("…", child.message)
    for own in sorted({child.host, child.address} - {""}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(own)}(?!\.?[\w-])", HOST, text)
    return text


def short(text: str) -> str:
    """At most MAX_MESSAGE characters of it."""
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
