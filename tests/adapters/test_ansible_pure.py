"""What is made of evidence that no playbook gives on demand: halves of reports, late events, odd words and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.ansible.events import Event, plain
from reconciler.adapters.ansible.evidence import LARGEST_COUNT, Evidence, Report, report_lines
from reconciler.adapters.ansible.launch import UserConfig, as_data
from reconciler.adapters.ansible.logs import Logbook, message_of
from reconciler.adapters.ansible.outcomes import INTERRUPTED, MAX_MESSAGE, Ending, judge
from reconciler.core.facts import ChildStatus, HostOutcome
from reconciler.core.reasons import Reason
from reconciler.ports import StopKind

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ENDED = NOON + timedelta(hours=1)
HOSTS = ("h1", "h2")

Line = Mapping[str, Any]


def event(kind: str, host: str | None = None, at: int = 0, **data: Any) -> dict[str, Any]:
    """`at`: seconds after noon."""
    of_host = {} if host is None else {"host": host, "task": "install", "task_uuid": "t1", "play_uuid": "p1"}
    created = (NOON + timedelta(seconds=at)).isoformat()
    return {"event": kind, "created": created, "stdout": data.pop("stdout", ""), "event_data": {**of_host, **data}}


def failure(host: str, at: int = 0, **result: Any) -> dict[str, Any]:
    return event("runner_on_failed", host, at, res={"msg": "worn out", **result})


def start(*targeted: str, gone: tuple[str, ...] = ()) -> list[Line]:
    play = {"play": "p1", "name": "all"}
    return [
        {"kind": "playbook", "plays": [{**play, "targeted": list(targeted)}], "gone": list(gone)},
        {"kind": "play", **play, "planned": list(targeted), "failed": [], "unreachable": []},
    ]


def held(host: str, *failed: str, at: int = 0) -> Line:
    moment = (NOON + timedelta(seconds=at)).timestamp()
    count = int(host in failed)
    return {
        "kind": "held", "at": moment, "host": host, "task": "t1", "failures": count,
        "failed": list(failed), "unreachable": [],
    }  # fmt: skip


def judged(
    events: list[dict[str, Any]],
    lines: Sequence[Line],
    returned: int | None = None,
    stop: StopKind | None = None,
    stopped_at: int | None = None,
) -> list[HostOutcome]:
    at = None if stopped_at is None else NOON + timedelta(seconds=stopped_at)
    evidence = Evidence(stopped_at=at)
    for one in events:
        evidence.add(Event.of(one))
    result = judge(HOSTS, evidence, Report.read(lines, HOSTS, at), Ending(returned, ENDED, stop), "/snapshot")
    assert result.error is None
    return list(result.outcomes)


def ends(outcomes: list[HostOutcome]) -> list[tuple[ChildStatus, Reason | None]]:
    return [(outcome.status, outcome.reason) for outcome in outcomes]


NO_REPORT = (ChildStatus.UNKNOWN, Reason.COMPANION_MISSING)
LOST = (ChildStatus.UNKNOWN, Reason.SLICE_LOST)
FAILED = (ChildStatus.FAILED, Reason.TASK_FAILED)
SUCCESS = (ChildStatus.SUCCESS, None)


# -- without proof ---------------------------------------------------------------------------------------------------
def test_without_the_companion_a_failure_is_proven_and_nothing_else() -> None:
    stats = event("playbook_on_stats", ok={"h1": 1, "h2": 1}, failures={"h1": 1})
    outcomes = judged([failure("h1"), event("runner_on_ok", "h2"), stats], [], returned=2)
    assert ends(outcomes) == [FAILED, NO_REPORT]


def test_without_the_companion_a_rescued_failure_proves_nothing() -> None:
    stats = event("playbook_on_stats", ok={"h1": 1}, rescued={"h1": 1})
    assert ends(judged([failure("h1"), stats], [], returned=0)) == [NO_REPORT, NO_REPORT]


def test_without_the_companion_an_unreachable_host_is_known_by_the_stats() -> None:
    gone = event("runner_on_unreachable", "h1", res={"msg": "Permission denied (publickey)."})
    stats = event("playbook_on_stats", dark={"h1": 1})
    unreachable = (ChildStatus.UNREACHABLE, Reason.AUTH_FAILED)
    assert ends(judged([gone, stats], [], returned=4)) == [unreachable, NO_REPORT]


def test_what_the_companion_could_not_tell_is_said() -> None:
    broken: Line = {"kind": "error", "of": "end", "message": "AttributeError('_failed_hosts')"}
    stats = event("playbook_on_stats", ok={"h1": 1, "h2": 1})
    outcomes = judged([stats], [*start("h1", "h2"), broken], returned=0)
    assert ends(outcomes) == [NO_REPORT, NO_REPORT]
    assert "_failed_hosts" in outcomes[0].message


def test_with_a_damaged_report_only_what_is_proven_stands() -> None:
    end = {"kind": "end", "plays": start("h1", "h2")[0]["plays"], "failed": ["h1"], "unreachable": []}
    whole = [json.dumps(line) for line in (*start("h1", "h2"), held("h1", "h1"), end)]
    stats = event("playbook_on_stats", ok={"h2": 1}, failures={"h1": 1})
    whole[1] = whole[1][:20]
    outcomes = judged([failure("h1"), stats], report_lines("\n".join([*whole, '{"ki'])), returned=2)
    assert ends(outcomes) == [FAILED, NO_REPORT]
    assert outcomes[1].message.endswith("(report: line 2 can't be read)")


def test_a_line_that_was_cut_off_at_the_end_is_no_damage() -> None:
    assert report_lines('{"kind": "cleared", "hosts": []}\n{"kin') == [{"kind": "cleared", "hosts": []}]


@pytest.mark.parametrize("line", ["", "12", "[]", "{}", "\x00"])
def test_whatever_a_damaged_line_has_become_it_is_an_error(line: str) -> None:
    assert [said["kind"] for said in report_lines(f"{line}\n")] == ["error"]


def test_an_exit_code_of_zero_alone_is_no_success() -> None:
    assert ends(judged([], [], returned=0)) == [NO_REPORT, NO_REPORT]


@pytest.mark.parametrize("returned", [None, INTERRUPTED])
def test_killed_from_outside_what_is_proven_stands(returned: int | None) -> None:
    events = [failure("h1"), event("runner_on_start", "h2")]
    outcomes = judged(events, [*start("h1", "h2"), held("h1", "h1")], returned)
    assert ends(outcomes) == [FAILED, LOST]
    assert outcomes[1].task == "install"


def test_a_failure_that_ansible_did_not_give_the_host_up_for_is_not_proven() -> None:
    assert ends(judged([failure("h1")], [*start("h1", "h2"), held("h1")])) == [LOST, LOST]


# -- being stopped ---------------------------------------------------------------------------------------------------
def test_a_failure_that_came_before_the_stop_stands_and_one_after_it_does_not() -> None:
    events = [failure("h1", at=1), event("runner_on_start", "h2", at=1), failure("h2", at=3, msg="Killed")]
    lines = [*start("h1", "h2"), held("h1", "h1", at=1), held("h2", "h1", "h2", at=3)]
    outcomes = judged(events, lines, stop=StopKind.DEADLINE, stopped_at=2)
    assert ends(outcomes) == [FAILED, (ChildStatus.FAILED, Reason.DEADLINE_EXCEEDED)]
    assert outcomes[1].message == "timeouts.wave passed in task install"


def test_a_result_that_came_late_puts_a_host_between_tasks() -> None:
    events = [event("runner_on_start", "h1", at=1), event("runner_on_ok", "h1", at=3)]
    outcomes = judged(events, start("h1", "h2"), stop=StopKind.DEADLINE, stopped_at=2)
    assert ends(outcomes) == [(ChildStatus.ABORTED, Reason.DEADLINE_EXCEEDED)] * 2


def test_a_playbook_that_was_done_before_it_could_be_stopped_is_done() -> None:
    events = [event("runner_on_ok", "h1"), event("playbook_on_stats", ok={"h1": 1})]
    end = {"kind": "end", "at": NOON.timestamp(), "plays": start("h1")[0]["plays"], "failed": [], "unreachable": []}
    outcomes = judged(events, [*start("h1"), end], stop=StopKind.CANCEL, stopped_at=2)
    assert ends(outcomes) == [(ChildStatus.SUCCESS, None), (ChildStatus.SKIPPED, Reason.NOT_TARGETED)]


def test_times_are_those_of_the_first_and_last_event_of_the_host() -> None:
    events = [event("runner_on_start", "h1", at=1), event("runner_on_ok", "h1", at=4)]
    end = {"kind": "end", "at": 0, "plays": start("h1", "h2")[0]["plays"], "failed": [], "unreachable": []}
    first, second = judged(events, [*start("h1", "h2"), end], returned=0)
    assert first.started_at == NOON + timedelta(seconds=1)
    assert first.finished_at == NOON + timedelta(seconds=4)
    assert (second.started_at, second.finished_at) == (None, None)


def test_who_was_not_done_when_the_playbook_was_ended_is_done_then() -> None:
    """Hours may lie between the last event of a host that hangs and the deadline."""
    events = [event("runner_on_start", "h1", at=1), failure("h2", at=4)]
    hangs, failed = judged(events, [*start("h1", "h2"), held("h2", "h2")], stop=StopKind.DEADLINE)
    assert (hangs.started_at, hangs.finished_at) == (NOON + timedelta(seconds=1), ENDED)
    assert failed.finished_at == NOON + timedelta(seconds=4)


# -- events and reports of any form ----------------------------------------------------------------------------------
END = {"kind": "end", "at": 0, "plays": start("h1", "h2")[0]["plays"], "failed": ["h1"], "unreachable": []}
STATS = event("playbook_on_stats", ok={"h2": 1}, failures={"h1": 1})
ODD: list[Any] = [None, True, 7, -1.5, "text", [], ["a"], {}, {"a": 1}]


@pytest.mark.parametrize("odd", ODD)
def test_an_event_of_any_form_leaves_the_others_as_they_are(odd: Any) -> None:
    fields = (
        "msg",
        "rc",
        "results",
        "warnings",
        "deprecations",
        "item",
        "stdout",
        "retries",
        "_ansible_delegated_vars",
    )
    events = [
        odd,
        {"event": odd, "event_data": odd, "stdout": odd, "created": odd},
        *(
            {**event(kind, "h1", res=odd), "stdout": odd}
            for kind in ("runner_on_ok", "runner_on_failed", "runner_retry")
        ),
        event("runner_item_on_failed", "h1", res=dict.fromkeys(fields, odd)),
        event(
            "runner_on_failed", "h1", res=dict.fromkeys(fields, odd), task=odd, task_uuid=odd, play_uuid=odd, role=odd
        ),
        event("playbook_on_task_start", task_uuid=odd, is_conditional=odd),
        event("runner_on_ok", "h2"),
        STATS,
    ]
    logbook = Logbook("/snapshot")
    lines = [line.text for one in events for line in logbook.lines(Event.of(one))]
    assert "ok" in lines
    assert ends(judged(events, [*start("h1", "h2"), held("h1", "h1"), END], returned=2)) == [FAILED, SUCCESS]


@pytest.mark.parametrize("odd", ODD)
def test_counts_of_any_form_are_numbers(odd: Any) -> None:
    stats = event("playbook_on_stats", ok={"h1": odd, "h2": 2**70}, failures=odd, skipped={"h1": -3})
    first, second = judged([failure("h1"), stats], [*start("h1", "h2"), held("h1", "h1"), END], returned=2)
    assert (first.status, first.counts.skipped) == (ChildStatus.FAILED, 0)
    assert second.counts.ok == LARGEST_COUNT


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "held"},
        {"kind": "held", "at": "now", "host": "h1", "task": "t1", "failures": 1, "failed": [], "unreachable": []},
        {"kind": "play", "play": "p1", "planned": "h2", "failed": [], "unreachable": []},
        {"kind": "playbook", "plays": [{"play": "p1"}], "gone": []},
        {"kind": "cleared", "hosts": [None]},
        {"kind": "end", "plays": None, "failed": [], "unreachable": []},
        {"kind": ["end"]},
        {"kind": "finished"},
    ],
)
def test_a_line_of_the_report_that_lacks_something_is_an_error(line: Line) -> None:
    (read,) = report_lines(f"{json.dumps(line)}\n")
    assert read == {"kind": "error", "of": "report", "message": "line 1 can't be read"}


@pytest.mark.parametrize(
    "at", ["2026-11-24T12:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "soon"]
)
def test_a_time_of_any_form_is_one_that_a_database_takes(at: str) -> None:
    moment = Event.of({**event("runner_on_ok", "h1"), "created": at}).made_at
    assert moment.tzinfo is UTC
    assert 1970 <= moment.year < 9999


def test_text_that_nobody_can_write_down_is_mended() -> None:
    """Bytes that are no UTF-8 come as halves of characters, and the process of the slice stumbled over them."""
    odd = "a\udcff\x00b\x9b31mc\x85"
    events = [event("runner_on_start", "h2", task=f"{odd}\nd"), failure("h1", msg=odd, rc=odd, task=odd)]
    first, second = judged(events, [*start("h1", "h2"), held("h1", "h1")], stop=StopKind.CANCEL)
    assert first.message == "a\ufffdbc"
    assert (second.message, second.task) == (f"cancelled in task {first.message} d", f"{first.message} d")
    said = event("verbose", stdout=odd)
    lines = [line for one in (*events, said) for line in Logbook("/snapshot").lines(Event.of(one))]
    assert all(line.text.isprintable() for line in lines)


@pytest.mark.parametrize("depth", [50, 200, 900])
def test_a_result_that_is_nested_deeper_than_can_be_shown_is_a_failure_all_the_same(depth: int) -> None:
    nested: Any = "deep"
    for _ in range(depth):
        nested = [nested]
    failed = failure(
        "h1", msg=nested, rc=nested, item=nested, results=[{"failed": True, "item": nested, "msg": nested}]
    )
    assert list(Logbook("/snapshot").lines(Event.of(failed)))
    (first, _) = judged([failed], [*start("h1", "h2"), held("h1", "h1")])
    assert (first.status, first.reason) == (ChildStatus.FAILED, Reason.TASK_FAILED)
    assert first.message.startswith("item ")


@pytest.mark.parametrize("word", ["timeout ", "the role '", "missing x ", "timed out after ", "[x -> ", " ***"])
def test_no_result_keeps_the_judge_busy_for_ever(word: str) -> None:
    long = word * 100_000
    failed = {**failure("h1", msg=long, _ansible_delegated_vars={"ansible_host": "h9"}), "stdout": long}
    assert "failed (delegated to h9)" in [line.text for line in Logbook("/snapshot").lines(Event.of(failed))]
    (first, _) = judged([failed], [*start("h1", "h2"), held("h1", "h1")])
    assert (first.status, first.reason) == (ChildStatus.FAILED, Reason.TASK_FAILED)


def test_of_many_failures_that_were_rescued_only_the_last_are_kept() -> None:
    evidence = Evidence()
    for number in range(1000):
        evidence.add(Event.of(failure("h1", msg=f"failure {number}")))
    assert len(evidence.trace("h1").failures) == 100
    assert evidence.trace("h1").failures[-1].result["msg"] == "failure 999"


# -- targets ---------------------------------------------------------------------------------------------------------
def test_while_a_template_hides_a_pattern_any_host_may_have_been_meant() -> None:
    plays = [{"play": "p1", "name": "one", "targeted": ["h1"]}, {"play": "p2", "name": "two", "targeted": None}]
    lines: list[Line] = [
        {"kind": "playbook", "plays": plays, "gone": []},
        {"kind": "play", "play": "p1", "planned": ["h1"], "failed": [], "unreachable": []},
        {"kind": "end", "at": 0, "plays": plays, "failed": ["h1"], "unreachable": []},
    ]
    stats = event("playbook_on_stats", failures={"h1": 1})
    outcomes = judged([failure("h1"), stats], lines, returned=2)
    assert ends(outcomes) == [FAILED, (ChildStatus.ABORTED, Reason.NEVER_REACHED)]


# -- reasons out of Ansible's words ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"msg": "Task failed: Missing sudo password"}, Reason.BECOME_FAILED),
        ({"msg": "Incorrect sudo password"}, Reason.BECOME_FAILED),
        ({"msg": "MODULE FAILURE", "module_stderr": "sudo: a password is required"}, Reason.BECOME_FAILED),
        ({"msg": "deploy is not in the sudoers file."}, Reason.BECOME_FAILED),
        ({"msg": "Timeout (12s) waiting for privilege escalation prompt: "}, Reason.BECOME_FAILED),
        ({"msg": "couldn't resolve module/action 'a.b.c'."}, Reason.MISSING_COLLECTION),
        ({"msg": "the role 'base' was not found in roles"}, Reason.MISSING_COLLECTION),
        ({"msg": "Task failed: Timed out after 2 second(s)."}, Reason.DEADLINE_EXCEEDED),
        ({"msg": "The command action failed to execute in the expected time frame (2)"}, Reason.DEADLINE_EXCEEDED),
        ({"msg": "no", "timedout": {"period": 2}}, Reason.DEADLINE_EXCEEDED),
        ({"msg": "non-zero return code", "stderr": "sudo: a password is required"}, Reason.TASK_FAILED),
    ],
)
def test_the_reason_of_a_failure_is_in_the_words_of_ansible(result: dict[str, Any], reason: Reason) -> None:
    (first, _) = judged([failure("h1", **result)], [*start("h1", "h2"), held("h1", "h1")])
    assert (first.status, first.reason) == (ChildStatus.FAILED, reason)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Failed to connect to the host via ssh: Host key verification failed.", Reason.HOST_KEY_UNKNOWN),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", Reason.HOST_KEY_UNKNOWN),
        ("Failed to connect to the host via ssh: u@h: Permission denied (publickey).", Reason.AUTH_FAILED),
        ("Invalid/incorrect password: Permission denied, please try again.", Reason.AUTH_FAILED),
        ("ssh: connect to host h1 port 22: Connection refused", Reason.CONNECTION_FAILED),
        ("ssh: Could not resolve hostname h1: Name or service not known", Reason.CONNECTION_FAILED),
    ],
)
def test_the_reason_why_a_host_is_unreachable_is_in_the_words_of_ssh(message: str, reason: Reason) -> None:
    unreachable = event("runner_on_unreachable", "h1", res={"msg": message})
    lines = [*start("h1", "h2"), {**held("h1"), "unreachable": ["h1"]}]
    (first, _) = judged([unreachable], lines)
    assert (first.status, first.reason, first.message) == (ChildStatus.UNREACHABLE, reason, message)


def test_a_message_is_bounded_plain_and_says_nothing_of_where_the_snapshot_lies() -> None:
    said = f"\x1b[31m/snapshot/files/a is missing\x1b[0m\r\n{'x' * MAX_MESSAGE}"
    (first, _) = judged([failure("h1", msg=said)], [*start("h1", "h2"), held("h1", "h1")])
    assert first.message.startswith("files/a is missing\nxxx")
    assert len(first.message) == MAX_MESSAGE
    assert first.message.endswith("…")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, "the task failed and said nothing"),
        ({"msg": ["no", "way"]}, '[\n  "no",\n  "way"\n]'),
        ({"reason": "could not find it"}, "could not find it"),
        ({"msg": "non-zero return code", "rc": 2, "stderr": "boom\n"}, "non-zero return code 2: boom"),
        ({"msg": "secret", "censored": "the output has been hidden"}, "the output has been hidden"),
    ],
)
def test_a_failure_always_says_something(result: dict[str, Any], message: str) -> None:
    assert message_of(result) == message


# -- the log ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[0;31mred\x1b[0m", "red"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b]0;title\x07text", "text"),
        ("bell\x07 back\x08 tab\t", "bell back tab\t"),
    ],
)
def test_plain_text_has_no_terminal_codes(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_a_failure_is_told_in_full() -> None:
    result: dict[str, Any] = {
        "msg": "non-zero return code",
        "rc": 3,
        "stdout": "one\ntwo",
        "stderr": "bad",
        "cmd": "secret",
    }
    lines = [line.text for line in Logbook("/snapshot").lines(Event.of(failure("h1", **result)))]
    assert lines[2:] == [
        "failed",
        "  rc: 3",
        "  non-zero return code",
        "  stdout:",
        "    one",
        "    two",
        "  stderr: bad",
    ]


# -- what Ansible is given -------------------------------------------------------------------------------------------
def test_every_text_among_extra_vars_is_marked_as_data_and_nothing_else_is_changed() -> None:
    variables = {"text": "{{ 1 }}", "list": ["0644", 7, None], "map": {"on": "yes"}, "vault": {"__ansible_vault": "$A"}}
    assert json.loads(as_data(variables)) == {
        "text": {"__ansible_unsafe": "{{ 1 }}"},
        "list": [{"__ansible_unsafe": "0644"}, 7, None],
        "map": {"on": {"__ansible_unsafe": "yes"}},
        "vault": {"__ansible_vault": "$A"},
    }


def user(tmp_path: Path, text: str) -> UserConfig:
    (tmp_path / "ansible.cfg").write_text(text, encoding="utf-8")
    return UserConfig.of(tmp_path)


def test_the_users_callbacks_are_kept_with_their_folders(tmp_path: Path) -> None:
    config = user(
        tmp_path, "[defaults]\ncallbacks_enabled = timer, profile_tasks ; ours\ncallback_plugins = cb:/srv/cb\n"
    )
    assert config.callbacks() == ["timer", "profile_tasks"]
    assert config.callback_folders() == [str(tmp_path / "cb"), "/srv/cb"]


@pytest.mark.parametrize(("said", "seconds"), [("", 60), ("0", 60), ("30", 30), ("90", 60), ("soon", 60)])
def test_the_smaller_task_timeout_counts(said: str, seconds: int, tmp_path: Path) -> None:
    assert user(tmp_path, f"[defaults]\ntask_timeout = {said}\n").task_timeout(60) == seconds


def test_what_is_set_for_ssh_comes_after_what_the_user_set(tmp_path: Path) -> None:
    config = user(tmp_path, "[ssh_connection]\nssh_common_args = -o ProxyJump=bastion\n")
    assert config.with_ours("ssh_connection", "ssh_common_args", "-v") == "-o ProxyJump=bastion -v"
    assert config.with_ours("ssh_connection", "ssh_extra_args", "-v") == "-v"


def test_an_ansible_cfg_that_can_not_be_read_is_left_to_ansible(tmp_path: Path) -> None:
    assert user(tmp_path, "no section\n").callbacks() == []


def test_a_playbook_that_was_ended_has_counted_nothing_and_says_no_numbers() -> None:
    ended = HostOutcome("h1", ChildStatus.CANCELLED, Reason.CANCELLED)
    assert [line.text for line in Logbook("/snapshot").last_lines(ended)] == ["RECAP cancelled (Cancelled)"]
