"""What happened to each host: judged from events, stats and the companion's report together.

Stats alone call hosts ok that any_errors_fatal, max_fail_percentage, serial or run_once stopped; a failed event may have
been rescued; the exit code of a syntax error is that of an unreachable host. The rule: a host is failed if it has
failures and the task queue manager has given it up; unreachable if it is given up as such; aborted if given up without
a failure of its own and not rescued, or targeted and never planned; not targeted if no play's pattern has it, or tags leave no task for it; else success.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.adapters.ansible.events import Event, plain, sequence, shown, task_name, uuid_of
from reconciler.adapters.ansible.evidence import Evidence, HostTrace, Report, Tags
from reconciler.adapters.ansible.logs import item_label, message_of
from reconciler.core.facts import ChildStatus, HostOutcome, RunError, TaskCounts
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookResult, StopKind

MAX_MESSAGE = 4000

INTERRUPTED = 99
"""The exit code of an ansible-playbook that got SIGINT: it was ended, and did not come to an end."""

_COUNTS = {
    "ok": "ok",
    "changed": "changed",
    "failures": "failed",
    "skipped": "skipped",
    "rescued": "rescued",
    "ignored": "ignored",
    "dark": "unreachable",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How and when the process ended: its exit code (None: by a signal, or unknown), and whether we were told to end
    it."""

    returned: int | None
    at: datetime
    stop: StopKind | None = None

    @property
    def orderly(self) -> bool:
        """It went by itself, with an exit code of its own."""
        return self.stop is None and self.returned is not None and self.returned != INTERRUPTED


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of one host."""

    status: ChildStatus
    reason: Reason | None = None
    message: str = ""
    task: str | None = None


GONE = Verdict(ChildStatus.ABORTED, Reason.HOST_GONE, "the inventory no longer has this host")


def judge(hosts: Sequence[str], evidence: Evidence, report: Report, ending: Ending, home: str) -> PlaybookResult:
    """Each host once, in this order. Paths below `home`, where the snapshot lies, become relative in messages."""
    verdicts, error = _verdicts(hosts, evidence, report, ending, home)
    outcomes = tuple(
        HostOutcome(
            host=host,
            status=verdict.status,
            reason=verdict.reason,
            message=_short(plain(verdict.message).replace(f"{home}/", "")),
            task=verdict.task,
            counts=TaskCounts(**{ours: evidence.count(theirs, host) for theirs, ours in _COUNTS.items()}),
            started_at=evidence.trace(host).began,
            finished_at=ending.at if _cut_off(host, evidence, report) else evidence.trace(host).ended,
        )
        for host, verdict in zip(hosts, verdicts, strict=True)
    )
    return PlaybookResult(outcomes, error)


def _cut_off(host: str, evidence: Evidence, report: Report) -> bool:
    """Whether the end of the process was the end of this host's turn: its last event was before."""
    ended = report.ended or evidence.stats is not None
    return not ended and _proven(host, evidence.trace(host), report) is None


def _verdicts(
    hosts: Sequence[str], evidence: Evidence, report: Report, ending: Ending, home: str
) -> tuple[list[Verdict], RunError | None]:
    said = "\n".join(evidence.said).replace(f"{home}/", "")
    traces = [(host, evidence.trace(host)) for host in hosts]
    touched = bool(evidence.traces) or evidence.stats is not None
    if not touched and "leaves us with no hosts to target" in said:  # later on it is the word of a host
        return [GONE for _ in hosts], None
    if evidence.prompted is not None and evidence.stats is None:
        error = _prompt(evidence.prompted)
    elif evidence.debugged and ending.returned == INTERRUPTED:
        error = _DEBUGGED
    elif ending.orderly and evidence.stats is None and (touched or ending.returned != 0):
        error = _broken(said, ending.returned)
    else:
        return [_judge(host, evidence, report, ending) for host in hosts], None
    aborted = Verdict(ChildStatus.ABORTED, error.reason, error.message)
    if not touched:
        return [GONE if host in report.gone else aborted for host in hosts], error
    if evidence.prompted is not None:
        # Whatever began before it could be ended began with an empty answer, and would again in every wave.
        return [_proven(host, trace, report) or aborted for host, trace in traces], error
    # Hosts were reached before it broke: their failures are theirs, and the next wave is for stopOnFailure to decide.
    if _WORKER_KILLED in said:
        aborted = Verdict(ChildStatus.ABORTED, Reason.STOPPED_WITH_OTHERS, _KILLED_BESIDE)
        return [_proven(host, trace, report) or _killed_inside(trace) or aborted for host, trace in traces], None
    return [_proven(host, trace, report) or aborted for host, trace in traces], None


_WORKER_KILLED = "A worker was found in a dead state"
"""What ansible-playbook says when one of its processes was killed: by the kernel when memory is short, most often."""

_KILLED_BESIDE = "stopped by Ansible because one of its processes was killed while it worked on another host"


def _killed_inside(trace: HostTrace) -> Verdict | None:
    """Ansible does not say whose process it was, so that nothing is known of any task that was going on."""
    if trace.inside is None:
        return None
    message = (
        f"one of Ansible's processes was killed while this host was in task {trace.inside}; "
        "see whether this machine ran out of memory, and lower `limit` if it did"
    )
    return Verdict(ChildStatus.UNKNOWN, Reason.SLICE_LOST, message, trace.inside)


def _prompt(variable: str) -> RunError:
    message = f"the playbook asks for the variable {variable}, and nobody is there to answer"
    return RunError(Reason.VARIABLE_PROMPT, message, f"give {variable} in extraVars")


_DEBUGGED = RunError(
    Reason.PLAYBOOK_BROKEN,
    "a task's debugger came up, and nobody is there to answer",
    "take `debugger` out of the playbook, and enable_task_debugger out of its ansible.cfg",
)


_VAULT = re.compile(r"vault (?:password|secret)|decryption failed|attempting to decrypt", re.I)
_NOT_EXECUTED = (126, 127)


def _broken(said: str, returned: int | None) -> RunError:
    message = _short(_complaint(said)) or "ansible-playbook ended before it was done, and did not say why"
    if returned in _NOT_EXECUTED:
        hint = (
            "mend the ansible-playbook that ansible.ansible_playbook names or PATH finds; `reconciler doctor` shows it"
        )
    elif _VAULT.search(said):
        hint = "compare ansible.vault_password_files with what the vault was encrypted with; nobody is asked for it"
    elif "Unable to find limit file" in said:
        hint = "leave the state directory alone while a playbook runs: something has taken a file of it away"
    elif "could not keep the playbook to its hosts" in said:
        hint = "use a supported ansible-core; `reconciler doctor` shows which one is used"
    elif _MISSING.search(said):
        return RunError(Reason.MISSING_COLLECTION, message, "install it where ansible-playbook runs, or ship it")
    else:
        hint = "mend the playbook; the run's log has all of it"
    return RunError(Reason.PLAYBOOK_BROKEN, message, hint)


# -- one host: the first rule that holds -----------------------------------------------------------------------------
def _judge(host: str, evidence: Evidence, report: Report, ending: Ending) -> Verdict:
    trace = evidence.trace(host)
    if report.ended:
        return _ended(host, evidence, report)
    if proven := _proven(host, trace, report):
        return proven
    if ending.stop is not None:
        return _stopped(trace, ending.stop)
    if evidence.stats is not None and evidence.count("dark", host) and trace.unreachable is not None:
        return _unreachable(trace)
    if evidence.stats is not None and evidence.count("failures", host) and trace.failures:
        return _failed(trace, report)
    if evidence.stats is not None or ending.orderly:
        return _unproven(
            "ansible-playbook ended without the companion's report, so nothing proves how this host ended", report
        )
    message = "ansible-playbook was ended before it was done with this host; the run's log may say by what"
    return Verdict(ChildStatus.UNKNOWN, Reason.SLICE_LOST, message, trace.inside)


def _ended(host: str, evidence: Evidence, report: Report) -> Verdict:
    """The playbook came to its own end, so that everything is known."""
    trace = evidence.trace(host)
    if host in report.gone:
        return GONE
    if host in report.unreachable:
        return _unreachable(trace)
    own = host in report.own_failure or (evidence.count("failures", host) and host not in report.cleared)
    if host in report.failed and own:
        return _failed(trace, report)
    if host in report.failed - report.rescued:
        message = "stopped by Ansible because of another host's failure"
        return Verdict(ChildStatus.ABORTED, Reason.STOPPED_WITH_OTHERS, message)
    if report.damaged:
        return _unproven("the companion's report is damaged, so nothing proves how this host ended", report)
    if host in report.missed and (report.failed or report.unreachable):
        message = "the playbook ended before a play that targets this host came to it"
        return Verdict(ChildStatus.ABORTED, Reason.NEVER_REACHED, message)
    if host in report.idle and report.tags is not None:
        return Verdict(ChildStatus.SKIPPED, Reason.NOT_TARGETED, _left_no_task(report.tags))
    # One that was missed without any failure was left out on purpose (meta: end_play): a success with nothing to do.
    if host in report.planned or host in report.targeted:
        return Verdict(ChildStatus.SUCCESS)
    return Verdict(ChildStatus.SKIPPED, Reason.NOT_TARGETED, "no play of the playbook targets this host")


def _unproven(message: str, report: Report) -> Verdict:
    said = "; ".join(report.errors)
    return Verdict(ChildStatus.UNKNOWN, Reason.COMPANION_MISSING, f"{message} ({said})" if said else message)


def _left_no_task(tags: Tags) -> str:
    if not tags.only:
        return f"every task of the playbook for this host has one of the skipTags {', '.join(tags.skip)}"
    beside = f" and none of the skipTags {', '.join(tags.skip)}" if tags.skip else ""
    return f"no task of the playbook for this host has one of the tags {', '.join(tags.only)}{beside}"


def _proven(host: str, trace: HostTrace, report: Report) -> Verdict | None:
    """What is final of a playbook that did not come to its end."""
    if host in report.gone:
        return GONE
    if host in report.unreachable and trace.unreachable is not None:
        return _unreachable(trace)
    if host in report.failed and host in report.own_failure and trace.failures:
        return _failed(trace, report)
    return None


def _stopped(trace: HostTrace, stop: StopKind) -> Verdict:
    """We ended it before it was done with this host."""
    inside = f" in task {trace.inside}" if trace.inside else ""
    match stop:
        case StopKind.CANCEL:
            return Verdict(ChildStatus.CANCELLED, Reason.CANCELLED, f"cancelled{inside}", trace.inside)
        case StopKind.DEADLINE if trace.inside:
            message = f"timeouts.wave passed{inside}"
            return Verdict(ChildStatus.FAILED, Reason.DEADLINE_EXCEEDED, message, trace.inside)
        case StopKind.DEADLINE:
            message = "timeouts.wave passed before this host was done"
            return Verdict(ChildStatus.ABORTED, Reason.DEADLINE_EXCEEDED, message)
        case StopKind.LOST:
            message = "the lease was lost before this host was done"
            return Verdict(ChildStatus.UNKNOWN, Reason.SLICE_LOST, message, trace.inside)


# -- reasons out of Ansible's words ----------------------------------------------------------------------------------
_MISSING = re.compile(
    r"couldn't resolve module/action|was not found in configured (?:module|collection) paths|the role '[^'\n]*' was not found"
    r"|could not find or load the specified collection",
    re.I,
)
_BECOME = re.compile(
    r"(?:missing|incorrect) \w+ password|a password is required|is not in the sudoers file|may not run sudo|"
    r"is not allowed to execute|timeout[^\n]{0,100}?waiting for privilege escalation|premature end of stream waiting for become",
    re.I,
)
_SEARCHED = 10_000
"""Characters at each end of a text that are searched for the words of a reason."""

_TIMEOUT = re.compile(r"timed out after \d+|failed to execute in the expected time", re.I)
_HOST_KEY = re.compile(r"host key verification failed|remote host identification has changed", re.I)
_LOGIN = re.compile(
    r"permission denied|too many authentication failures|invalid/incorrect (?:username/)?password|authentication fail",
    re.I,
)


def _failed(trace: HostTrace, report: Report) -> Verdict:
    if not trace.failures:  # its event was too large to be kept, or came too late
        return Verdict(ChildStatus.FAILED, Reason.TASK_FAILED, "a task failed; Ansible did not say how")
    failure = _that_counts(trace.failures, report)
    result, task = failure.result, task_name(failure.data)
    if not result:
        message = "the task failed, and its result was too large to be kept"
        return Verdict(ChildStatus.FAILED, Reason.TASK_FAILED, message, task)
    item = _failed_item(result)
    message = message_of(result) if item is None else f"item {item_label(item)}: {message_of(item)}"
    cause = item or result
    # Of what a module printed only the words of its start count: a command may print anything.
    words = "\n".join(_ends(shown(cause.get(name))) for name in ("msg", "reason", "module_stderr", "module_stdout"))
    if "timedout" in cause or _TIMEOUT.search(words):
        reason = Reason.DEADLINE_EXCEEDED
    elif _BECOME.search(words):
        reason = Reason.BECOME_FAILED
    elif _MISSING.search(words):
        reason = Reason.MISSING_COLLECTION
    else:
        reason = Reason.TASK_FAILED
    return Verdict(ChildStatus.FAILED, reason, message, task)


def _ends(text: str) -> str:
    """Its first and its last words, where what went wrong is said."""
    return text if len(text) <= 2 * _SEARCHED else f"{text[:_SEARCHED]}\n{text[-_SEARCHED:]}"


def _that_counts(failures: Sequence[Event], report: Report) -> Event:
    """Not one that was rescued, nor what failed in an `always` section afterwards."""
    task = report.decisive.get(failures[-1].host or "")
    return next((one for one in reversed(failures) if task == uuid_of(one.data.get("task_uuid"))), failures[-1])


def _failed_item(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The last item of a loop that failed: the whole only says that one did."""
    for item in reversed(sequence(result.get("results"))):
        if isinstance(item, Mapping) and item.get("failed") and "censored" not in item:
            return item
    return None


def _unreachable(trace: HostTrace) -> Verdict:
    if trace.unreachable is None:
        return Verdict(ChildStatus.UNREACHABLE, Reason.CONNECTION_FAILED, "Ansible could not reach this host")
    message = message_of(trace.unreachable.result)
    if _HOST_KEY.search(message):
        reason = Reason.HOST_KEY_UNKNOWN
    elif _BECOME.search(message):
        reason = Reason.BECOME_FAILED
    elif _LOGIN.search(message):
        reason = Reason.AUTH_FAILED
    else:
        reason = Reason.CONNECTION_FAILED
    return Verdict(ChildStatus.UNREACHABLE, reason, message, task_name(trace.unreachable.data))


def _complaint(text: str) -> str:
    """What Ansible says is wrong, from its last error on: warnings and what it tried before come first."""
    return re.split(r"\[ERROR\]:\s*|ERROR! ", text)[-1].strip()


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
