"""Ansible's events as lines of log: each host's own for its child, the rest for the run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.adapters.ansible.events import Event, mapping, one_line, plain, sequence, shown, task_name, uuid_of
from reconciler.core.facts import HostOutcome
from reconciler.ports import LogLine

_BANNER = re.compile(r" \*{3,}$", re.M)

_DELEGATED = re.compile(r"^[a-z]+: \[[^\]\n]{1,253} -> ([^\]\n]{1,253})\]", re.M)

_WORDS = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
    "runner_item_on_ok": "ok",
    "runner_item_on_failed": "failed",
    "runner_item_on_skipped": "skipped",
    "runner_retry": "retrying",
}

_COUNTS = ("ok", "changed", "unreachable", "failed", "skipped", "rescued", "ignored")
"""In the order of Ansible's own recap."""

_FAILED = ("runner_on_failed", "runner_on_unreachable", "runner_item_on_failed", "runner_retry")

_NOT_FOR_THE_RUN = ("playbook_on_task_start", "playbook_on_include", "playbook_on_notify", "playbook_on_stats")
"""Without a host, and said better in the logs of the hosts."""


def item_label(result: Mapping[str, Any]) -> str:
    """Which item of a loop this is, as loop_control.label has it."""
    return one_line(result.get("_ansible_item_label", result.get("item")))


def message_of(result: Mapping[str, Any]) -> str:
    """Why a task failed, in one message."""
    if "censored" in result:
        return shown(result["censored"])
    said = next(
        (text for field in ("msg", "reason", "stderr", "module_stderr") if (text := shown(result.get(field)))), ""
    )
    if said == "non-zero return code":
        said = f"{said} {one_line(result.get('rc'))}"
        stderr = shown(result.get("stderr"))
        return f"{said}: {stderr}" if stderr else said
    return said or "the task failed and said nothing"


class Logbook:
    """Turns events into lines, in order. A task's header comes once for each host, when the host begins it.

    `home` is where the snapshot lies: paths below it become relative, for where it lies says nothing to a reader.
    """

    def __init__(self, home: str) -> None:
        self._home = f"{home}/"
        self._headed: dict[str, str] = {}
        self._played: dict[str, str] = {}
        self._handlers: set[str] = set()
        self._warned: set[str] = set()

    def lines(self, event: Event) -> Iterator[LogLine]:
        for line in self._lines(event):
            yield LogLine(line.host, plain(line.text).replace(self._home, ""))

    def last_lines(self, outcome: HostOutcome) -> Iterator[LogLine]:
        """How it ended for this host, after all its other lines."""
        reason = f" ({outcome.reason})" if outcome.reason else ""
        counted = {name: getattr(outcome.counts, name) for name in _COUNTS}
        # A playbook that was ended has not counted, and a row of zeros would say that nothing was done.
        told = ": " + " ".join(f"{name}={number}" for name, number in counted.items()) if any(counted.values()) else ""
        yield LogLine(outcome.host, f"RECAP {outcome.status}{reason}{told}")
        yield from (LogLine(outcome.host, f"  {line}") for line in outcome.message.splitlines())

    def _lines(self, event: Event) -> Iterator[LogLine]:
        if event.host is not None:
            yield from self._lines_of_host(event, event.host)
            return
        if event.kind == "playbook_on_task_start" and event.data.get("is_conditional"):
            self._handlers.add(uuid_of(event.data.get("task_uuid")))
        if event.kind not in _NOT_FOR_THE_RUN and (text := _BANNER.sub("", event.printed).strip("\n")):
            yield LogLine(None, text)

    def _lines_of_host(self, event: Event, host: str) -> Iterator[LogLine]:
        if event.kind == "runner_on_start":  # at once, for it may hang in there
            yield from self._heading(host, event.data)
        elif event.kind == "runner_on_file_diff":
            # Ansible has formatted it, and left it out where nothing changed
            if text := event.printed.strip("\n"):
                yield from self._heading(host, event.data)
                yield LogLine(host, text)
        elif event.kind in _WORDS and not (event.kind == "runner_on_ok" and _is_loop(event.result)):
            yield from self._heading(host, event.data)
            yield LogLine(host, _line(event))
            yield from (LogLine(host, f"  {line}") for line in _details(event))
        yield from self._warnings(host, event.result)

    def _heading(self, host: str, data: Mapping[str, Any]) -> Iterator[LogLine]:
        play, task = uuid_of(data.get("play_uuid")), uuid_of(data.get("task_uuid"))
        if self._played.get(host) != play:
            self._played[host] = play
            yield LogLine(host, f"PLAY [{one_line(data.get('play'))}]")
        if self._headed.get(host) != task:
            self._headed[host] = task
            yield LogLine(host, f"{'HANDLER' if task in self._handlers else 'TASK'} [{task_name(data)}]")

    def _warnings(self, host: str, result: Mapping[str, Any]) -> Iterator[LogLine]:
        """Ansible gives them with the result, and once more with that of the whole loop."""
        if "censored" in result:
            return
        said = [("WARNING", warning) for warning in sequence(result.get("warnings"))]
        said += [("DEPRECATED", _deprecation(entry)) for entry in sequence(result.get("deprecations"))]
        for word, warning in said:
            text = f"[{word}] {host}: {shown(warning)}"
            if text not in self._warned:
                self._warned.add(text)
                yield LogLine(None, text)


def _deprecation(entry: object) -> object:
    return entry.get("msg") if isinstance(entry, Mapping) else entry


def _is_loop(result: Mapping[str, Any]) -> bool:
    """Its items have said it all."""
    return isinstance(result.get("results"), list)


def _line(event: Event) -> str:
    result, word = event.result, _WORDS[event.kind]
    # of a hidden result only Ansible's own line tells
    if word == "ok" and (result.get("changed") or event.printed.startswith("changed:")):
        word = "changed"
    on = f" (delegated to {_delegate(event)})" if result.get("_ansible_delegated_vars") else ""
    item = f" (item={item_label(result)})" if event.kind.startswith("runner_item") and "censored" not in result else ""
    if event.kind == "runner_retry":
        item = _tries_left(result.get("retries", 0), result.get("attempts", 0))
    ignored = " (ignored)" if event.data.get("ignore_errors") and word == "failed" else ""
    return f"{word}{on}{item}{ignored}"


def _tries_left(retries: object, attempts: object) -> str:
    return f" ({retries - attempts} left)" if isinstance(retries, int) and isinstance(attempts, int) else ""


def _delegate(event: Event) -> str:
    """Its name is in Ansible's own line only; the result has its address."""
    found = _DELEGATED.search(event.printed)
    return found[1] if found else one_line(mapping(event.result["_ansible_delegated_vars"]).get("ansible_host"))


def _details(event: Event) -> Iterator[str]:
    """What is worth a line beside the word: all of a failure, and what debug and its like are there to say."""
    result = event.result
    if "censored" in result:
        yield shown(result["censored"])
    elif event.kind in _FAILED and _is_loop(result):
        yield from shown(result.get("msg")).splitlines()
    elif event.kind in _FAILED:
        if "rc" in result:
            yield f"rc: {one_line(result['rc'])}"
        yield from shown(result.get("msg") or result.get("reason")).splitlines()
        for field in ("stdout", "stderr", "module_stdout", "module_stderr"):
            yield from _field(field, shown(result.get(field)))
    elif result.get("_ansible_verbose_always") and "msg" in result:
        yield from shown(result["msg"]).splitlines()
    elif result.get("_ansible_verbose_always"):
        for field, value in result.items():
            if field not in _BESIDE and not field.startswith(("_ansible_", "ansible_loop")):
                yield from _field(field, shown(value))


_BESIDE = frozenset({"changed", "failed", "skipped", "item", "warnings", "deprecations", "invocation"})


def _field(field: str, text: str) -> Iterator[str]:
    lines = text.splitlines()
    if len(lines) == 1:
        yield f"{field}: {lines[0]}"
    elif lines:
        yield f"{field}:"
        yield from (f"  {line}" for line in lines)
