"""Ansible's events as lines of log: each host's own for its child, the rest for the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.core.facts import HostOutcome
from reconciler.ports import LogLine

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BANNER = re.compile(r" \*{3,}$", re.M)

_DELEGATED = re.compile(r"\[[^\]]+ -> ([^\]]+)\]")

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


def plain(text: str) -> str:
    """Without terminal codes and control characters, and with `\\n` alone as line end."""
    return _CONTROL.sub("", _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def task_name(data: Mapping[str, Any]) -> str:
    """As people see it, with its role."""
    task, role = str(data.get("task", "")), data.get("role")
    return f"{role} : {task}" if role and not task.startswith(f"{role} : ") else task


def item_label(result: Mapping[str, Any]) -> str:
    """Which item of a loop this is, as loop_control.label has it."""
    label = result.get("_ansible_item_label", result.get("item"))
    return " ".join(plain(label if isinstance(label, str) else json.dumps(label, default=str)).split("\n"))


def message_of(result: Mapping[str, Any]) -> str:
    """Why a task failed, in one message."""
    if "censored" in result:
        return str(result["censored"])
    said = next(
        (text for name in ("msg", "reason", "stderr", "module_stderr") if (text := _text(result.get(name)))), ""
    )
    if said == "non-zero return code":
        stderr = _text(result.get("stderr"))
        return f"{said} {result.get('rc')}: {stderr}" if stderr else f"{said} {result.get('rc')}"
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

    def lines(self, event: Mapping[str, Any]) -> Iterator[LogLine]:
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

    def _lines(self, event: Mapping[str, Any]) -> Iterator[LogLine]:
        kind, data = event["event"], event.get("event_data") or {}
        host = data.get("host")
        if isinstance(host, str):
            yield from self._lines_of_host(kind, data, host, event)
            return
        if kind == "playbook_on_task_start" and data.get("is_conditional"):
            self._handlers.add(uuid_of(data.get("task_uuid")))
        if kind not in _NOT_FOR_THE_RUN and (text := _BANNER.sub("", plain(event.get("stdout", ""))).strip("\n")):
            yield LogLine(None, text)

    def _lines_of_host(
        self, kind: str, data: Mapping[str, Any], host: str, event: Mapping[str, Any]
    ) -> Iterator[LogLine]:
        if kind == "runner_on_start":  # at once, for it may hang in there
            yield from self._heading(host, data)
        elif kind == "runner_on_file_diff":
            # Ansible has formatted it, and left it out where nothing changed
            if text := plain(event.get("stdout", "")).strip("\n"):
                yield from self._heading(host, data)
                yield LogLine(host, text)
        elif kind in _WORDS and not (kind == "runner_on_ok" and _is_loop(data)):
            yield from self._heading(host, data)
            yield LogLine(host, _line(kind, data, event))
            yield from (LogLine(host, f"  {line}") for line in _details(kind, data))
        yield from self._warnings(host, data.get("res") or {})

    def _heading(self, host: str, data: Mapping[str, Any]) -> Iterator[LogLine]:
        play, task = uuid_of(data.get("play_uuid")), uuid_of(data.get("task_uuid"))
        if self._played.get(host) != play:
            self._played[host] = play
            yield LogLine(host, f"PLAY [{data.get('play', '')}]")
        if self._headed.get(host) != task:
            self._headed[host] = task
            yield LogLine(host, f"{'HANDLER' if task in self._handlers else 'TASK'} [{task_name(data)}]")

    def _warnings(self, host: str, result: Mapping[str, Any]) -> Iterator[LogLine]:
        """Ansible gives them with the result, and once more with that of the whole loop."""
        if "censored" in result:
            return
        said = [("WARNING", warning) for warning in result.get("warnings") or ()]
        said += [("DEPRECATED", _deprecation(entry)) for entry in result.get("deprecations") or ()]
        for word, warning in said:
            text = f"[{word}] {host}: {_text(warning)}"
            if text not in self._warned:
                self._warned.add(text)
                yield LogLine(None, text)


def _deprecation(entry: object) -> object:
    return entry.get("msg") if isinstance(entry, Mapping) else entry


def uuid_of(value: object) -> str:
    """ansible-runner appends a number to one that comes again: another batch, or another host of a free strategy."""
    return str(value).split("_", maxsplit=1)[0]


def _is_loop(data: Mapping[str, Any]) -> bool:
    """Its items have said it all."""
    return isinstance((data.get("res") or {}).get("results"), list)


def _line(kind: str, data: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    result = data.get("res") or {}
    word = _WORDS[kind]
    # of a hidden result only Ansible's own line tells
    if word == "ok" and (result.get("changed") or str(event.get("stdout", "")).startswith("changed:")):
        word = "changed"
    on = f" (delegated to {_delegate(result, event)})" if result.get("_ansible_delegated_vars") else ""
    item = f" (item={item_label(result)})" if kind.startswith("runner_item") and "censored" not in result else ""
    if kind == "runner_retry":
        item = f" ({result.get('retries', 0) - result.get('attempts', 0)} left)"
    ignored = " (ignored)" if data.get("ignore_errors") and word == "failed" else ""
    return f"{word}{on}{item}{ignored}"


def _delegate(result: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    """Its name is in Ansible's own line only; the result has its address."""
    shown = _DELEGATED.search(plain(event.get("stdout", "")))
    return shown[1] if shown else str(result["_ansible_delegated_vars"].get("ansible_host"))


def _details(kind: str, data: Mapping[str, Any]) -> Iterator[str]:
    """What is worth a line beside the word: all of a failure, and what debug and its like are there to say."""
    result = data.get("res") or {}
    if "censored" in result:
        yield str(result["censored"])
    elif kind in _FAILED and isinstance(result.get("results"), list):
        yield from _text(result.get("msg")).splitlines()
    elif kind in _FAILED:
        if "rc" in result:
            yield f"rc: {result['rc']}"
        yield from _text(result.get("msg") or result.get("reason")).splitlines()
        for name in ("stdout", "stderr", "module_stdout", "module_stderr"):
            yield from _field(name, _text(result.get(name)))
    elif result.get("_ansible_verbose_always") and "msg" in result:
        yield from _text(result["msg"]).splitlines()
    elif result.get("_ansible_verbose_always"):
        for name, value in result.items():
            if name not in _BESIDE and not name.startswith(("_ansible_", "ansible_loop")):
                yield from _field(name, _text(value))


_BESIDE = frozenset({"changed", "failed", "skipped", "item", "warnings", "deprecations", "invocation"})


def _field(name: str, text: str) -> Iterator[str]:
    lines = text.splitlines()
    if len(lines) == 1:
        yield f"{name}: {lines[0]}"
    elif lines:
        yield f"{name}:"
        yield from (f"  {line}" for line in lines)


def _text(value: object) -> str:
    if value is None:
        return ""
    return plain(value if isinstance(value, str) else json.dumps(value, default=str, indent=2)).strip()
