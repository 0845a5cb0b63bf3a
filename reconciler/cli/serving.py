"""The process of a daemon from its start to its end: it leads or waits, heeds signals, and reads its settings again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import structlog

from reconciler import __version__
from reconciler import app as parts
from reconciler.adapters.servicemanager import ServiceManager
from reconciler.cli import show
from reconciler.cli.asking import who
from reconciler.cli.options import log_to_stderr, root_of
from reconciler.cli.signals import Signals
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.port import Shown, Web, port_access
from reconciler.settings import Settings, load_settings
from reconciler.sources import BuiltSource, sources_of_settings

if TYPE_CHECKING:
    from reconciler.engine.leading import Lead, Standby
    from reconciler.ports import Snapshot
    from reconciler.web import Health

log = structlog.get_logger()

STOPPING, TERMINATING, LEAVING = 30.0, 4.0, 1.0
"""Seconds for looks in progress: after the work is done; on TERM, so that a standby, or the next daemon, soon goes on; for
who is in a hurry. Whatever is cut off is found again."""

POLL = 0.25
"""Seconds between two looks at what a person wants and what has come of the work."""

TOLD = 5.0
"""Seconds between two looks at what the service manager is told."""

BEGINS_AGAIN = 3.0
"""Seconds after which what could not begin is tried again."""

OF_ALL = frozenset({Reason.STORE_UNAVAILABLE, Reason.NOT_LEADING})
"""Why one can't begin to lead, where no other could do better."""

OF_PORT = (
    "http",
    "metrics",
    "sources",
    "source",
    "git",
    "ansible",
    "inventory",
    "manifests",
    "max_limit",
    "max_running",
)
"""Settings of which a change makes the port anew: sessions end, and who listens to changes comes again."""

HANGS = 60.0
"""Seconds: threads that have not ended a turn for so long make no progress. A database that is away lets them: each of
their questions ends by itself, sooner than that."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line said. It holds for as long as the process lives; the rest of the settings may change."""

    path: Path | None
    working_tree: bool
    config: Path | None
    flags: tuple[tuple[str, Any], ...]
    http: bool

    def settings(self) -> Settings:
        """Read now. Raises Refused."""
        return load_settings(self.config, **dict(self.flags))


class Serving:
    """One daemon. Its inside is made anew whenever it begins to lead, and for each change of the settings; what runs is
    touched by neither."""

    def __init__(
        self, asked: Asked, settings: Settings, process: parts.DaemonProcess, signals: Signals, manager: ServiceManager
    ) -> None:
        """Raises Refused for what must be mended before it can start."""
        self._asked = asked
        self._process = process
        self._signals = signals
        self._manager = manager
        self._leadership = process.leadership
        self._settings = settings
        self._sources = self._build_sources(settings)
        self._built: Sequence[BuiltSource] | None = self._sources
        """The sources, as long as no inside has used and closed them."""
        self._running: parts.Running | None = None
        self._fence = 0
        self._standby: Standby | None = None
        self._begins_at = self._told_at = 0.0
        self._heeded = 0
        self._cancelled = False
        self._web: Web | None = None
        self._web_made_of: object = None
        self._serve_http(settings, self._sources)
        signals.at_once = self._hold_back

    def run(self) -> None:
        """Until it is to end."""
        log.info(
            "daemon_started",
            version=__version__,
            sources=_listed(self._sources),
            state=str(self._settings.state_dir),
            port=self._port,
        )
        self._manager.ready()
        while not self._is_over():
            self._heed()
            self._take_part()
            self._tell_manager()
        log.info("stopping")
        self._manager.stopping()
        self._end_inside(self._patience())
        if self._web is not None:
            self._web.stop()
        log.info("daemon_stopped")

    # -- what people want --------------------------------------------------------------------------------------------
    def _hold_back(self) -> None:
        running = self._running
        if running is not None:
            running.daemon.drain()

    def _is_over(self) -> bool:
        """After a while, if not. Who is to finish what runs does so as long as it leads."""
        if self._signals.leave:
            return True
        if not self._signals.any:
            time.sleep(POLL)
            return False
        try:
            if self._running is not None:
                return self._running.daemon.rested(POLL)
            if not self._process.has_work():
                return True
        except Unavailable:  # the database is away, which others tell of
            pass
        time.sleep(POLL)
        return False

    def _heed(self) -> None:
        if self._signals.interrupts > self._heeded and self._running is not None:
            self._heeded = self._signals.interrupts
            if self._heeded == 1:
                show.err.print("nothing more is started; what runs is waited for (Ctrl-C again cancels it)")
            else:
                self._cancel("interrupted")
                show.err.print("what runs is cancelled (Ctrl-C again leaves at once)")
        if self._signals.drain and not self._heeded:
            self._heeded = 1
            log.info("draining")
        if self._signals.reload:
            self._signals.reload = False
            if not self._signals.any:
                self._reload()

    def _cancel_if_told_twice(self) -> None:
        if self._signals.terminations > 1 and not self._cancelled:
            self._cancelled = True
            self._cancel("SIGTERM twice")

    def _cancel(self, reason: str) -> None:
        """What the leader runs; a standby has nothing to cancel."""
        if self._running is None:
            return
        try:
            self._running.daemon.cancel_everything(who(), reason)
        except ReconcilerError as error:
            log.warning("not_cancelled", why=str(error))
        else:
            log.info("everything_cancelled", why=reason)

    def _patience(self) -> float:
        if self._signals.interrupts > 2:
            return LEAVING
        return TERMINATING if self._signals.terminations else STOPPING

    # -- leading and waiting -----------------------------------------------------------------------------------------
    def _take_part(self) -> None:
        lead = self._leadership.lead
        if self._running is not None and (lead is None or lead.fence != self._fence):
            self._end_inside(TERMINATING)
        if self._running is None and not self._signals.any:
            if lead is not None and time.monotonic() >= self._begins_at:
                self._begin(lead)
            elif lead is None and self._standby is None:
                self._standby = self._process.build_standby()
                self._standby.start()

    def _begin(self, lead: Lead) -> None:
        """Lead. What can't begin now is tried again soon; if it is for reasons of its own, another may do better."""
        self._end_standby()
        try:
            built = self._built or self._build_sources(self._settings)
            self._built = None
            self._running = self._process.build(self._settings, built, lead)
            self._fence = lead.fence
            if self._signals.any:
                self._hold_back()
            self._running.start()
        except (ReconcilerError, OSError) as error:
            log.warning("not_begun", fence=lead.fence, why=str(error))
            self._end_inside(TERMINATING)
            self._begins_at = time.monotonic() + BEGINS_AGAIN
            if not isinstance(error, ReconcilerError) or error.reason not in OF_ALL:
                self._step_back()

    def _step_back(self) -> None:
        try:
            self._leadership.step_back(BEGINS_AGAIN)
        except Unavailable as error:
            log.warning("lease_not_given_back", why=str(error))

    def _end_inside(self, patience: float) -> None:
        """Whatever it does at the moment. A second TERM is heeded meanwhile."""
        self._end_standby()
        if self._running is None:
            return
        ending = Thread(target=self._running.stop, args=(patience,), name="stop", daemon=True)
        ending.start()
        while ending.is_alive():
            ending.join(POLL)
            self._cancel_if_told_twice()
        self._cancel_if_told_twice()
        self._running = None
        self._process.retire()

    def _end_standby(self) -> None:
        if self._standby is not None:
            self._standby.stop()
            self._standby = None

    # -- settings ----------------------------------------------------------------------------------------------------
    def _reload(self) -> None:
        self._manager.reloading()
        try:
            settings = self._asked.settings()
            self._check(settings)
        except (ReconcilerError, OSError) as error:
            log.warning("settings_not_reloaded", why=str(error))
        else:
            self._take_over(settings)
        self._manager.ready()

    def _check(self, settings: Settings) -> None:
        """All that can be told before anything is touched. Raises ReconcilerError."""
        old = self._settings
        for name, kept in (
            ("state_dir", settings.state_dir.resolve() == old.state_dir.resolve()),
            ("database_url", settings.url == old.url),
        ):
            if not kept:
                raise Refused(
                    Reason.SETTINGS_INVALID, f"{name} can't change while the daemon runs", "restart it to change that"
                )
        root = root_of(settings, self._asked.path)
        built = self._sources if root is not None else sources_of_settings(settings, settings.state_dir.resolve())
        self._serve_http(settings, built)

    def _take_over(self, settings: Settings) -> None:
        """Make the inside anew, by these settings."""
        self._end_inside(TERMINATING)
        self._built = None
        try:
            self._built = self._sources = self._build_sources(settings)
            self._settings = settings
        except (ReconcilerError, OSError) as error:
            log.warning("settings_not_reloaded", why=str(error))
            self._serve_http(self._settings, self._sources)
            return
        log_to_stderr(settings, quiet=False)
        log.info("settings_reloaded", sources=_listed(self._sources), port=self._port)

    def _build_sources(self, settings: Settings) -> Sequence[BuiltSource]:
        root = root_of(settings, self._asked.path)
        return parts.build_sources(settings, root, self._process.store, working_tree=self._asked.working_tree)

    # -- what is shown -----------------------------------------------------------------------------------------------
    def _serve_http(self, settings: Settings, built: Sequence[BuiltSource]) -> None:
        """The port as these settings have it; the one before is closed if it was another. Raises Refused if it can't be
        had, with the one before as it was."""
        wanted = self._asked.http and settings.http.enabled
        made_of = wanted and (
            *(getattr(settings, name) for name in OF_PORT),
            port_access(settings),
            [(each.source.name, each.hook_secret) for each in built],
        )
        if made_of == self._web_made_of:
            return
        # At another address the one before may be in the way all the same.
        same_port = _port_of(settings) in (_port_of(self._settings), str(self._port))
        if self._web is not None and (same_port or not wanted):
            self._web.stop()
            self._web = self._web_made_of = None
        if wanted:
            shown = Shown(self._health, self._poke, self._newest)
            try:
                web = parts.build_web_server(settings, self._process, built, shown)
            except Refused:
                if self._web is None and settings is not self._settings:
                    self._serve_http(self._settings, self._sources)
                raise
            web.start()
            if self._web is not None:
                self._web.stop()
            self._web = web
            if port_access(settings).answers_nobody:
                log.warning(
                    "port_answers_nobody",
                    listen=settings.http.listen,
                    why="pages and API need a token where others can reach them, and http.tokens has none",
                    hint="reconciler token NAME",
                )
        self._web_made_of = made_of

    @property
    def _port(self) -> int | str:
        return "none" if self._web is None else self._web.server.port

    def _health(self) -> Health:
        from reconciler.web import Health

        try:
            self._process.store.ping()
            notes = tuple(str(pause) for pause in self._process.store.pauses())
        except Unavailable as error:
            return Health((str(error),))
        running = self._running
        if self._leadership.lead is None:
            leader = self._leadership.leader
            state = f"standby: {leader} leads" if leader else "standby: nobody leads at the moment"
            return Health(state=state, notes=notes)
        if running is None or not self._leadership.leads:
            return Health(("it leads, and can't begin anything yet",), notes=notes)
        return Health(running.daemon.unready(), notes=notes)

    def _poke(self, source: str) -> bool:
        running = self._running
        return running is not None and running.daemon.poke(source)

    def _newest(self, source: str) -> Snapshot | None:
        running = self._running
        return None if running is None else running.newest(source)

    def _tell_manager(self) -> None:
        if self._makes_progress():
            self._manager.alive()
        if self._manager.there and time.monotonic() - self._told_at >= TOLD:
            self._told_at = time.monotonic()
            self._manager.status(self._in_short())

    def _makes_progress(self) -> bool:
        running = self._running
        return self._leadership.idle() < HANGS and (running is None or running.daemon.idle() < HANGS)

    def _in_short(self) -> str:
        if self._leadership.lead is None:
            return f"standby: {self._leadership.leader or 'nobody'} leads"
        try:
            count = len(self._process.store.open_runs())
        except Unavailable as error:
            return str(error)
        what = "draining" if self._signals.any else "leading"
        return f"{what}, {count} run{'' if count == 1 else 's'} in progress"


def _port_of(settings: Settings) -> str:
    return settings.http.listen.rpartition(":")[2]


def _listed(built: Sequence[BuiltSource]) -> str:
    return ", ".join(str(each) for each in built)
