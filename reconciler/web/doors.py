"""What the port leads to: everything that pages and API show or ask for comes through here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Protocol

from fastapi import Depends, Request

from reconciler.core.facts import JobKey, ManifestRecord, Observed
from reconciler.core.manifest import DEFAULT_MAX_LIMIT
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import Authoring, Browser, Clock, History, StoredEvent
from reconciler.ports import Request as Asked
from reconciler.web.hooks import Hook
from reconciler.web.tokens import Token


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the daemon can do its work; `problems` say why not, a line each. Else `state` says what it does, and
    `notes` what people should know of it."""

    problems: tuple[str, ...] = ()
    state: str = "ready"
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.problems


class Looking(Browser, History, Protocol):
    """What people look up."""


class Asking(Protocol):
    """The part of ports.JobStore that pages and API use: what people ask for, and what the daemon says and does."""

    def manifest(self, key: JobKey) -> ManifestRecord | None: ...
    def observe(self, key: JobKey) -> Observed: ...
    def add_request(self, request: Asked) -> bool: ...
    def request(self, request_id: str) -> Asked | None: ...
    def status(self, key: JobKey) -> JobStatus | None: ...
    def source_statuses(self) -> Sequence[SourceStatus]: ...
    def events_after(self, sequence: int, limit: int = 1000) -> Sequence[StoredEvent]: ...
    def last_event(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what. `loopback`: nobody on another machine reaches the port, so that reading needs no token.
    `allowed_hosts`: names under which it is reached, beside those of loopback. `metrics_auth`: /metrics needs a token."""

    tokens: tuple[Token, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    loopback: bool = True
    metrics_auth: bool = False

    @property
    def answers_nobody(self) -> bool:
        """Whether nobody can see a page or call the API: only metrics, health and webhooks are there."""
        return not self.loopback and not self.tokens


@dataclass(frozen=True, slots=True)
class Doors:
    """`metrics` is the exposition, ready to be sent, compressed by gzip if it is told so; `health` asks database and
    sources; `hooks` has the sources that a webhook may poke, by name. `authoring` None: nothing can be composed here."""

    metrics: Callable[[bool], bytes]
    health: Callable[[], Health]
    browser: Looking
    requests: Asking
    clock: Clock
    authoring: Authoring | None = None
    hooks: Mapping[str, Hook] = field(default_factory=lambda: MappingProxyType({}))
    access: Access = Access()
    sources: Collection[str] | None = None
    """Those that the settings name; the database remembers others, too. None: all that it knows."""
    max_limit: int = DEFAULT_MAX_LIMIT
    """The highest `limit` that a manifest may have."""


async def doors_of(request: Request) -> Doors:
    """Those of the application that serves the request."""
    doors: Doors = request.app.state.doors
    return doors


DoorsHere = Annotated[Doors, Depends(doors_of)]
