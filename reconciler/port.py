"""The daemon's port, built out of the settings: who may come in, what is shown there, and what may be asked for.

Its parts are imported where they are built: a process that has no port does without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.adapters.clock import SystemClock
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.settings import Settings, TokenSettings, check_sha256
from reconciler.sources import BuiltSource

if TYPE_CHECKING:
    from reconciler.adapters.metrics import MetricsPage
    from reconciler.adapters.store import SqlStore
    from reconciler.authoring import SourcesAuthoring
    from reconciler.ports import Hosts, Snapshot
    from reconciler.web import Access, Health, WebServer


def _nothing_read(_: str) -> Snapshot | None:
    return None


@dataclass(frozen=True, slots=True)
class Shown:
    """What the port shows of a process, whatever it does at the moment. `poke` reads a source at once, and says whether
    anybody does; `newest` is a source as it was read last, None while it is not read here."""

    health: Callable[[], Health]
    poke: Callable[[str], bool]
    newest: Callable[[str], Snapshot | None] = _nothing_read


@dataclass(frozen=True, slots=True)
class Web:
    """The daemon's port, and what is shown there."""

    server: WebServer
    metrics: MetricsPage
    authoring: SourcesAuthoring

    def start(self) -> None:
        self.metrics.start()
        self.server.start()

    def stop(self) -> None:
        self.authoring.close()
        self.server.stop()
        self.metrics.stop()


def port_access(settings: Settings) -> Access:
    """Who may do what by the port. Raises Refused for a file with a hash that can't be had."""
    from reconciler.web import Access, Token, all_scopes, is_loopback

    said = settings.http
    tokens = tuple(Token(each.name, each.hash or _hash_of(each), all_scopes(each.scopes)) for each in said.tokens)
    same = [each.name for each in tokens for other in tokens if other is not each and other.digest == each.digest]
    if same:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"http.tokens: {' and '.join(same[:2])} are the same token: audits could not tell them apart",
            "reconciler token NAME makes another",
        )
    return Access(tokens, said.allowed_hosts, is_loopback(said.listen), said.metrics_auth)


def _hash_of(said: TokenSettings) -> str:
    """What its file says, be it written by sha256sum."""
    path = said.hash_file or Path()
    hint = "put the SHA-256 into it that `reconciler token NAME` says"
    try:
        text = path.expanduser().read_text(encoding="utf-8")[:1000]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Refused(
            Reason.SETTINGS_INVALID, f"http.tokens: the hash of {said.name} can't be read from {path}: {why}", hint
        ) from error
    digest = (text.split() or [""])[0].lower()
    try:
        return check_sha256(digest)
    except ValueError as error:
        raise Refused(
            Reason.SETTINGS_INVALID, f"http.tokens: {path}, of {said.name}, has no SHA-256 in hex", hint
        ) from error


def build_port(
    settings: Settings,
    built: Sequence[BuiltSource],
    store: SqlStore,
    hosts: Hosts,
    metrics: MetricsPage,
    shown: Shown,
) -> Web:
    """Raises Refused if it can't be had."""
    from reconciler.authoring import build_authoring
    from reconciler.web import Doors, Hook, WebServer, build_web

    secrets = {each.source.name: each.hook_secret for each in built if each.hook_secret is not None}
    authoring = build_authoring(settings, built, store, hosts, shown.newest, shown.poke)
    doors = Doors(
        metrics=metrics.page,
        health=shown.health,
        browser=store,
        requests=store,
        clock=SystemClock(),
        authoring=authoring,
        hooks={name: Hook(secret, partial(shown.poke, name)) for name, secret in secrets.items()},
        access=port_access(settings),
        sources=frozenset(each.source.name for each in built),
        max_limit=settings.max_limit,
    )
    return Web(WebServer(build_web(doors), settings.http.listen), metrics, authoring)
