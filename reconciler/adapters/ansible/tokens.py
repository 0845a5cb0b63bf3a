"""What announces an event in Ansible's output, and who is believed.

ansible-runner's callback writes each event to a file, and a token with the event's id to the output. But whatever is
printed there can hold a token: a host only has to return one in a warning. ansible-runner would take what is in it for
an event, of any host, or stumble over it, which ends the playbook. So of a token nothing but the id counts, and where it
leads to no file there is no event.
"""

from __future__ import annotations

import re
from typing import Any

import ansible_runner.runner
from ansible_runner.utils import OutputEventFilter

from reconciler.adapters.ansible.events import mapping

_ID = re.compile(r"[\w.-]{1,100}", re.ASCII)
"""Becomes part of the name of a file."""


class TrustingOnlyIds(OutputEventFilter):  # type: ignore[misc]  # it has no types
    """Finds the tokens that an id has room in, and takes nothing else out of them."""

    EVENT_DATA_RE = re.compile(r"\x1b\[K((?:[A-Za-z0-9+/=]{1,78}\x1b\[\d{1,2}D){1,2})\x1b\[K")

    def _emit_event(self, buffered_stdout: str, next_event_data: object = None) -> Any:
        identity = mapping(next_event_data).get("uuid")
        believed = {"uuid": identity} if isinstance(identity, str) and _ID.fullmatch(identity) else None
        return super()._emit_event(buffered_stdout, believed)


def believe_only_ids() -> None:
    """From now on, in this process. ansible-runner offers no other place for it."""
    ansible_runner.runner.OutputEventFilter = TrustingOnlyIds
