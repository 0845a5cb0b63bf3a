"""Commands that steer a source, or everything: pause, resume, adopt. What they ask for is in force as soon as they end, with
or without a daemon."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import typer

from reconciler import app as parts
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.cli.asking import who
from reconciler.cli.options import FAILED, USAGE, Config, StateDir, Why, complain, opened
from reconciler.core.facts import JobKey
from reconciler.ports import Request, RequestKind
from reconciler.settings import Settings

MaybeSource = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Of this source only; none: everything.")]

FEW = 10
"""Names that are listed of many."""


def add_to(app: typer.Typer) -> None:
    app.command()(pause)
    app.command()(resume)
    app.command()(adopt)


def pause(source: MaybeSource = None, reason: Why = "", config: Config = None, state_dir: StateDir = None) -> None:
    """Start nothing new: no run, no wave, no retry; what runs finishes. Until `reconciler resume`, whatever is restarted."""
    with opened(config, state_dir) as (store, settings):
        _check_source(store, settings, source)
        if store.pause(_request(RequestKind.PAUSE, source, reason)):
            back = f"reconciler resume {source}" if source else "reconciler resume"
            show.out.print(
                f"{_what(source)} is paused: what runs finishes, nothing new starts before {back}", markup=False
            )
            return
        show.out.print("it was paused already:", markup=False)
        for each in store.pauses():
            if each.source == source:
                show.out.print(f"  {each}", markup=False)


def resume(source: MaybeSource = None, reason: Why = "", config: Config = None, state_dir: StateDir = None) -> None:
    """Go on after a pause: of everything, or of one source that was paused by itself."""
    with opened(config, state_dir) as (store, settings):
        _check_source(store, settings, source)
        resumed = store.resume(_request(RequestKind.RESUME, source, reason))
        left = store.pauses()
        if resumed:
            show.out.print(f"{_what(source)} is resumed", markup=False)
        for each in left:
            show.out.print(f"still: {each}", markup=False)
        if not resumed:
            complain(f"{_what(source)} was not paused", "see: reconciler status")
            raise typer.Exit(FAILED)


def adopt(
    source: Annotated[str, typer.Argument(help="A source that is held.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Batches of it; none: all, and whatever is new in it later.")
    ] = None,
    as_done: Annotated[
        bool, typer.Option("--as-done", help="They have run before: nothing starts before something changes.")
    ] = False,
    run: Annotated[bool, typer.Option("--run", help="They are new: they run.")] = False,
    reason: Why = "",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Say what to make of a source that is held, since nobody knows whether it has run before."""
    if as_done == run:
        complain("give --as-done if they have run before, or --run if they are new", "reconciler adopt --help")
        raise typer.Exit(USAGE)
    with opened(config, state_dir) as (store, settings):
        chosen = _held_names(store, source, [name.removeprefix(f"{source}/") for name in names or ()], as_done=as_done)
        arguments = {"names": chosen, "as": "done" if as_done else "run"}
        request = _request(RequestKind.ADOPT, source, reason, arguments)
        adopted = store.adopt(request, chosen, as_done=as_done)
        how = "as done: nothing starts before something changes" if as_done else "to run"
        show.out.print(f"{source}: {_listed(adopted)} adopted {how}", markup=False)
        asked = [name for name in adopted if store.observe(JobKey(source, name)).causes] if as_done else []
        if asked:
            names_of = ", ".join(asked[:FEW]) + (", …" if len(asked) > FEW else "")
            show.out.print(f"  a run was asked for meanwhile, which begins: {names_of}", markup=False)
        if not chosen and as_done:
            _warn_of_rejected(store, source)
        if not as_done and not parts.is_seen_to(settings, store):
            show.out.print("no daemon runs here; it is done by the next: reconciler run")


def _held_names(store: SqlStore, source: str, names: Sequence[str], *, as_done: bool) -> list[str]:
    """Those that are to be adopted; none: all. Ends the command if that can't be meant."""
    sources = store.sources()
    held = sorted(name for name, record in store.manifests(source).items() if record.held is not None)
    if sources.get(source) is None and not held:
        others = ", ".join(name for name, why in sources.items() if why is not None)
        _refuse(f"there is no source {source} that is held", f"held are: {others}" if others else "none is held")
    if wrong := [name for name in names if name not in held]:
        _refuse(f"{source} has no held batch {', '.join(wrong)}", f"held are: {', '.join(held) or 'none'}")
    if as_done and not held:
        _refuse(
            f"no manifest of {source} has been read yet, so that nothing of it can count as done",
            "see that it can be read (reconciler sources), and adopt it then",
        )
    return list(names)


def _warn_of_rejected(store: SqlStore, source: str) -> None:
    rejected = sum(len(each.status.rejected) for each in store.source_statuses() if each.metadata.name == source)
    if rejected:
        what = "1 manifest is invalid" if rejected == 1 else f"{rejected} manifests are invalid"
        show.err.print(
            f"warning: {what} now (reconciler sources): once mended, what was never seen counts as new, and runs"
        )


def _check_source(store: SqlStore, settings: Settings, source: str | None) -> None:
    """A pause of a source that is not there would hold nobody, silently."""
    known = {*store.sources(), *(each.name for each in settings.sources)}
    if source is not None and source not in known:
        hint = f"there are: {', '.join(sorted(known)) or 'none yet'}; to hold one batch, say `suspend: true` in its manifest"
        _refuse(f"there is no source {source}", hint)


def _refuse(message: str, hint: str) -> NoReturn:
    complain(message, hint)
    raise typer.Exit(USAGE)


def _request(kind: RequestKind, source: str | None, reason: str, arguments: Mapping[str, Any] | None = None) -> Request:
    key = JobKey(source or "", "")
    return Request(uuid.uuid4().hex, kind, key, None, who(), reason, datetime.now(UTC), arguments=arguments or {})


def _what(source: str | None) -> str:
    return "everything" if source is None else f"source {source}"


def _listed(names: Sequence[str]) -> str:
    if len(names) > FEW:
        return f"{len(names)} batches are"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}" if names else "it is"
