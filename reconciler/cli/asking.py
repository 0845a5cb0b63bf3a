"""Commands that ask for something of a batch: trigger, retry, resolve, cancel, wait."""

from __future__ import annotations

import getpass
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from reconciler import app as parts
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.cli.options import (
    CANNOT_TELL,
    FAILED,
    USAGE,
    Config,
    Name,
    StateDir,
    Why,
    bounded,
    complain,
    key_of,
    log_to_stderr,
    opened,
    status_of,
)
from reconciler.core.asking import no_trigger, run_to_cancel
from reconciler.core.errors import Refused
from reconciler.core.facts import JobKey
from reconciler.core.folding import run_of
from reconciler.core.manifest import parse_duration
from reconciler.core.reasons import Reason
from reconciler.core.retrying import AtRevision, Refusal, Which, choose_hosts
from reconciler.core.status import ConditionType, JobStatus, JobStatusBody, Phase
from reconciler.engine.answering import child_to_resolve
from reconciler.ports import Request, RequestKind
from reconciler.settings import Settings

ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.STALLED, Phase.REMOVED, Phase.INVALID)

POLL = 0.2
"""Seconds between two looks at the database."""

ANSWER = 10.0
"""Seconds within which a daemon that is not busy has answered."""

PATIENCE = 60.0
"""Seconds that a command without a daemon works on the end of what it asked for; the rest is the next daemon's."""

NAMED = 5
"""Hosts that are listed of many."""


class As(StrEnum):
    """How a host ended, by a person's word."""

    SUCCESS = "success"
    FAILED = "failed"


def add_to(app: typer.Typer) -> None:
    app.command()(trigger)
    app.command()(retry)
    app.command()(resolve)
    app.command()(cancel)
    app.command()(wait)


def trigger(
    name: Name,
    reason: Why = "",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Ask for another run."""
    with opened(config, state_dir) as (store, settings):
        body = _valid(store, name)
        _ask(store, RequestKind.TRIGGER, key_of(store, name), None, reason)
        then = _what_then(settings, store, name, body)
        if not body.suspended and (current := store.observe(key_of(store, name)).run) is not None and current.open:
            then = f"it begins when the run in progress has ended; {then}"
        show.out.print(f"{name}: a run is asked for; {then}", markup=False)


def retry(
    name: Name,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="This one, whatever became of it; repeatable.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Those that are failed, unreachable or aborted. The default.")
    ] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also those that are skipped or cancelled.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Those of which nobody knows how they ended: look at them before.")
    ] = False,
    revision: Annotated[
        AtRevision | None,
        typer.Option("--revision", help="What the run had, or the newest; needed once the playbook is another."),
    ] = None,
    reason: Why = "",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Try some hosts of the latest run again, in a run of their own. What is said of the batch is about all of its hosts."""
    chosen = [which for which, given in zip(Which, (failed, unfinished, unknown), strict=True) if given]
    if len(chosen) > 1:
        complain(f"--{chosen[0]} and --{chosen[1]} exclude each other", "--unfinished has the failed ones, too")
        raise typer.Exit(USAGE)
    which = chosen[0] if chosen else None
    with opened(config, state_dir) as (store, settings):
        body, key = _valid(store, name), key_of(store, name)
        observed = store.observe(key)
        run_id = None if observed.run is None else observed.run.job_id
        hosts = choose_hosts(store.manifest(key), observed, run_id, host or (), which)
        if isinstance(hosts, Refusal):
            _refused(name, hosts)
        arguments = {
            "hosts": host or [],
            "which": None if which is None else which.value,
            "revision": None if revision is None else revision.value,
        }
        asked = _ask(store, RequestKind.RETRY, key, run_id, reason, arguments)
        _heed(store, settings, name, asked)
        named = f"{', '.join(hosts[:NAMED])}{', …' if len(hosts) > NAMED else ''}"
        many = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
        are = "is" if len(hosts) == 1 else "are"
        then = _what_then(settings, store, name, body)
        show.out.print(f"{name}: {many} of {run_id} {are} to be tried again ({named}); {then}", markup=False)


def resolve(
    name: Name,
    host: Annotated[str, typer.Option("--host", help="One of which nobody knows how it ended.")],
    how: Annotated[As, typer.Option("--as", help="How it ended, as you have seen.")],
    reason: Annotated[str, typer.Option("--reason", help="How you know; kept for audits.", callback=bounded)],
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Say how a host ended that is unknown: you have looked at it. Works without a daemon too."""
    if not reason.strip():
        complain("say how you know", "--reason")
        raise typer.Exit(USAGE)
    with opened(config, state_dir) as (store, settings):
        status_of(store, name)
        key = key_of(store, name)
        child = child_to_resolve(store.observe(key), host, None)
        if isinstance(child, Refusal):
            _refused(name, child)
        asked = _ask(store, RequestKind.RESOLVE, key, run_of(child), reason, {"host": host, "as": how.value})
        if not parts.daemon_runs(settings):
            _see_to_the_end(settings, store, config, (key,), lambda: _answer_to(store, asked) is not None)
        answered = _heed(store, settings, name, asked)
        then = f"see: reconciler status {name}" if answered else "as soon as a daemon has looked at it"
        show.out.print(f"{name}: {host} is {how}, by your word; {then}", markup=False)


def _valid(store: SqlStore, name: str) -> JobStatusBody:
    job = status_of(store, name)
    if (refusal := no_trigger(job)) is not None:
        complain(f"{name}: {refusal.message}", refusal.hint)
        raise typer.Exit(USAGE)
    return job.status


def _what_then(settings: Settings, store: SqlStore, name: str, body: JobStatusBody) -> str:
    """When something that was asked for begins."""
    then = f"see: reconciler status {name}"
    if not parts.is_seen_to(settings, store):
        then = "no daemon runs here; it is done by the next: reconciler run"
    record = store.manifest(key_of(store, name))
    if record is not None and record.held is not None:
        return f"it waits to be adopted: reconciler adopt {record.key.source}; then it runs"
    held = next((found for found in body.conditions if found.type is ConditionType.SUSPENDED), None)
    if held is None:
        return then
    if held.reason == Reason.PAUSED:
        return f"{held.message}; {then}"
    return f"it is suspended, and runs once its manifest says so no more; {then}"


def _refused(name: str, why: Refusal) -> NoReturn:
    complain(f"{name}: {why.message}", why.hint)
    raise typer.Exit(FAILED)


def _answer_to(store: SqlStore, request_id: str) -> str | None:
    request = store.request(request_id)
    return None if request is None else request.result


def _heed(store: SqlStore, settings: Settings, name: str, request_id: str) -> bool:
    """Where a daemon runs, wait a while for its answer: a refusal ends the command. False: there is none yet."""
    until = time.monotonic() + ANSWER
    while (said := _answer_to(store, request_id)) is None and parts.daemon_runs(settings) and time.monotonic() < until:
        time.sleep(POLL)
    if said is not None and said.startswith("refused: "):
        complain(f"{name}: {said.removeprefix('refused: ')}")
        raise typer.Exit(FAILED)
    return said is not None


def cancel(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME of a batch.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run in progress.")] = False,
    reason: Why = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """End a run in progress: what runs is ended, what waits is skipped. Works without a daemon too."""
    if (name is None) != everything:
        complain("name one batch, or give --all")
        raise typer.Exit(USAGE)
    with opened(config, state_dir) as (store, settings):
        names = [f"{job.metadata.source}/{job.metadata.name}" for job in store.statuses()] if name is None else [name]
        asked: dict[JobKey, str] = {}
        for each in names:
            observed = store.observe(key_of(store, each))
            current = run_to_cancel(observed)
            if not isinstance(current, Refusal):
                _ask(store, RequestKind.CANCEL, key_of(store, each), current, reason)
                asked[key_of(store, each)] = current
                show.out.print(f"{each}: {current} is asked to end", markup=False)
                if waiting := [cause.message for cause in observed.causes]:
                    show.out.print(f"  another run begins after it: {'; '.join(waiting)}", markup=False)
            elif not everything:
                status_of(store, each)
                _refused(each, current)

        def ended() -> bool:
            found = [store.run(run) for run in asked.values()]
            return not any(each is not None and each[1].open for each in found)

        if asked and not parts.daemon_runs(settings):
            _see_to_the_end(settings, store, config, tuple(asked), ended)
        while wait and not ended():
            time.sleep(POLL)


def _see_to_the_end(
    settings: Settings, store: SqlStore, config: Path | None, keys: Sequence[JobKey], done: Callable[[], bool]
) -> None:
    """With no daemon there is nobody else to end what lost its process, and to say how the run ended."""
    log_to_stderr(settings, quiet=True)
    try:
        with parts.daemon_of(settings, store, config) as process:
            lead = process.lead_or_give_up()
            if lead is None:
                return  # one on another state directory leads, and does it
            process.build(settings, (), lead).daemon.see_to(keys, done, PATIENCE)
    except Refused:
        return  # one has started in the meantime


def _ask(
    store: SqlStore,
    kind: RequestKind,
    key: JobKey,
    run_id: str | None,
    reason: str,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """The id of the request."""
    request = Request(uuid.uuid4().hex, kind, key, run_id, who(), reason, datetime.now(UTC), arguments=arguments or {})
    store.add_request(request)
    return request.id


def who() -> str:
    """Who asks, for the record: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as containers have them
        user = f"uid-{os.getuid()}"
    return f"{user}@{os.uname().nodename}"


def wait(
    name: Name,
    phase: Annotated[Phase | None, typer.Option("--for", help="This phase; none: any end.")] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Not before the source was seen at this revision; its start will do."),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="As 90s, 30m, 2h.")] = "1h",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Wait until a batch has ended, or is in a phase. Exit 1 if it ended otherwise, 4 when the time is over."""
    try:
        patience = parse_duration(timeout).total_seconds()
    except ValueError as error:
        complain(f"--timeout {timeout}: {error}")
        raise typer.Exit(USAGE) from error
    with opened(config, state_dir) as (store, _):
        deadline = time.monotonic() + patience
        key = key_of(store, name)
        while True:
            job = status_of(store, str(key))
            found, seen = job.status.phase, revision is None or _is_at(job, revision)
            if seen and (found is phase or (found in ENDED and _has_ended(store, key, job))):
                show.out.print(f"{name}: {found}", markup=False)
                raise typer.Exit(0 if found is (phase or Phase.SUCCEEDED) else FAILED)
            if time.monotonic() > deadline:
                still = f"{name} is still {found}" if seen else f"{name} was last seen at {job.status.revision}"
                complain(f"{still} after {timeout}")
                raise typer.Exit(CANNOT_TELL)
            time.sleep(POLL)


def _is_at(job: JobStatus, revision: str) -> bool:
    """Whether the whole revision, or its digest, begins so."""
    known = job.status.revision
    return bool(revision) and any(part.startswith(revision) for part in (known, known.rpartition(":")[2]))


def _has_ended(store: SqlStore, key: JobKey, job: JobStatus) -> bool:
    """Whether what the status says is the end of it, and not of what was before. A job that stalls, or is gone from its
    source, does not rest as long as something asks for a run that can't start."""
    record = store.manifest(key)
    if record is None:
        return True
    current = job.status.observed_generation == record.generation
    return current and (job.status.phase in (Phase.STALLED, Phase.REMOVED, Phase.INVALID) or store.job_at_rest(key))
