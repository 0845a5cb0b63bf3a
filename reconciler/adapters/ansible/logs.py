"""Ansible's events as lines of log: each host's own for its child, the rest for the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.ports import LogLine

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")

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


def plain(text: str) -> str:
    """Without terminal codes, and with `\\n` alone as line end."""
    return _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


class Logbook:
    """Turns events into lines, in order. A task's header comes once for each host that it has something to say of."""

    def __init__(self, home: str) -> None:
        self._home = f"{home}/"
        self._headed: dict[str, str] = {}
        self._played: dict[str, str] = {}

    def lines(self, event: Mapping[str, Any]) -> Iterator[LogLine]:
        """Paths of the snapshot become relative: where it lies says nothing to a reader."""
        for line in self._lines(event):
            yield LogLine(line.host, line.text.replace(self._home, ""))

    def _lines(self, event: Mapping[str, Any]) -> Iterator[LogLine]:
        kind, data = event["event"], event.get("event_data", {})
        host = data.get("host")
        if kind in _WORDS and isinstance(host, str):
            yield from self._heading(host, data)
            yield LogLine(host, f"{_line(kind, data)}")
            yield from (LogLine(host, f"  {line}") for line in _details(kind, data))
        elif kind == "playbook_on_stats":
            for name in sorted({host for counts in data.values() if isinstance(counts, dict) for host in counts}):
                counts = " ".join(f"{word}={data.get(word, {}).get(name, 0)}" for word in _RECAP)
                yield LogLine(name, f"RECAP {counts}")
        elif kind not in ("runner_on_start", "playbook_on_include") and (
            text := plain(event.get("stdout", "")).strip("\n")
        ):
            yield LogLine(None, text)

    def _heading(self, host: str, data: Mapping[str, Any]) -> Iterator[LogLine]:
        play, task = str(data.get("play_uuid", "")), str(data.get("task_uuid", ""))
        if self._played.get(host) != play:
            self._played[host] = play
            yield LogLine(host, f"PLAY [{data.get('play', '')}]")
        if self._headed.get(host) != task:
            self._headed[host] = task
            yield LogLine(host, f"TASK [{task_name(data)}]")


_RECAP = ("ok", "changed", "failures", "dark", "skipped", "rescued", "ignored")


def task_name(data: Mapping[str, Any]) -> str:
    task, role = str(data.get("task", "")), data.get("role")
    return f"{role} : {task}" if role and not task.startswith(f"{role} : ") else task


def _line(kind: str, data: Mapping[str, Any]) -> str:
    result = data.get("res") or {}
    word = _WORDS[kind]
    if word == "ok" and result.get("changed"):
        word = "changed"
    delegate = result.get("_ansible_delegated_vars", {}).get("ansible_delegated_host")
    to = f" (delegated to {delegate})" if delegate else ""
    item = f" (item={item_label(result)})" if kind.startswith("runner_item") else ""
    if kind == "runner_retry":
        item = f" ({result.get('attempts')} of {result.get('retries')})"
    ignored = " (ignored)" if data.get("ignore_errors") and word == "failed" else ""
    return f"{word}{to}{item}{ignored}"


def item_label(result: Mapping[str, Any]) -> str:
    label = result.get("_ansible_item_label", result.get("item"))
    return label if isinstance(label, str) else json.dumps(label, default=str)


def _details(kind: str, data: Mapping[str, Any]) -> Iterator[str]:
    result = data.get("res") or {}
    if "censored" in result:
        yield from str(result["censored"]).splitlines()
        return
    failed = kind in ("runner_on_failed", "runner_on_unreachable", "runner_item_on_failed", "runner_retry")
    if failed and "results" in result and kind == "runner_on_failed":
        yield from str(result.get("msg", "")).splitlines()
        return
    shown: tuple[str, ...] = ("msg", "stdout", "stderr") if failed else ()
    if str(data.get("task_action", "")).endswith("debug"):
        shown = tuple(name for name in result if not name.startswith("_") and name not in ("changed", "failed"))
    if failed and "rc" in result:
        yield f"rc: {result['rc']}"
    for name in shown:
        text = result.get(name)
        text = text if isinstance(text, str) else "" if text is None else json.dumps(text, default=str, indent=2)
        if text.strip():
            lead = "" if name == "msg" else f"{name}: "
            yield from (f"{lead if number == 0 else ''}{line}" for number, line in enumerate(plain(text).splitlines()))
    for change in _diffs(result.get("diff")):
        yield from plain(change).splitlines()


def _diffs(diff: object) -> Iterator[str]:
    for part in diff if isinstance(diff, list) else [diff]:
        if isinstance(part, dict) and isinstance(part.get("prepared"), str):
            yield part["prepared"]
        elif isinstance(part, dict) and "after" in part and part.get("before") != part["after"]:
            yield f"--- {part.get('before_header', 'before')}\n{part.get('before', '')}"
            yield f"+++ {part.get('after_header', 'after')}\n{part['after']}"
