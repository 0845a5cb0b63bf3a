"""The only place that knows all the parts: it builds what a command needs out of the settings.

Parts that only some commands need are imported where they are built: the process of a slice comes through here too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.directory import DirectorySource
from reconciler.adapters.local import LocalExecutor
from reconciler.adapters.store import SqlStore
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.settings import Settings

if TYPE_CHECKING:
    from reconciler.adapters.ansible import AnsibleOptions
    from reconciler.adapters.inventory import AnsibleInventory
    from reconciler.adapters.metrics import MetricsPage, ProcessMetrics
    from reconciler.core.hosts import Inventory
    from reconciler.core.reading import Rejected
    from reconciler.engine.daemon import Daemon
    from reconciler.engine.preview import Preview
    from reconciler.web import WebServer

SOURCE = "default"

PROBES_END = 1.0
"""Seconds within which whoever only asks whether a daemon runs has let go of its lock."""


def ansible_options(settings: Settings) -> AnsibleOptions:
    from reconciler.adapters.ansible import AnsibleOptions

    said = settings.ansible
    return AnsibleOptions(
        ansible_playbook=said.ansible_playbook,
        private_key_file=_absolute(said.private_key_file),
        vault_password_files=tuple(path.expanduser().resolve() for path in said.vault_password_files),
        become_password_file=_absolute(said.become_password_file),
        remote_user=said.remote_user,
        ssh_common_args=said.ssh_common_args,
        known_hosts_file=_absolute(said.known_hosts_file),
        pass_env=said.pass_env,
        pipelining=said.pipelining,
        default_inventory=settings.inventory.default,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def build_inventory(settings: Settings) -> AnsibleInventory:
    from reconciler.adapters.inventory import AnsibleInventory, InventoryOptions

    ansible = ansible_options(settings)
    playbook = ansible.ansible_playbook
    options = InventoryOptions(
        ansible_inventory=None if playbook is None else Path(playbook).with_name("ansible-inventory"),
        default=settings.inventory.default,
        tags_variable=settings.inventory.tags_variable,
        refresh=settings.inventory.refresh,
        vault_password_files=ansible.vault_password_files,
        pass_env=ansible.pass_env,
    )
    state_dir = settings.state_dir.resolve()  # only `run` makes it: who just looks leaves nothing behind
    return AnsibleInventory(options, SystemClock(), state_dir / "inventories" if state_dir.is_dir() else None)


def build_source(settings: Settings, root: Path) -> DirectorySource:
    bounds = settings.source
    state_dir = settings.state_dir.resolve()
    return DirectorySource(
        SOURCE,
        root,
        state_dir=state_dir,
        snapshots_dir=state_dir / "snapshots" / SOURCE,
        max_files=bounds.max_files,
        max_bytes=bounds.max_bytes,
        clock=SystemClock(),
    )


def open_store(settings: Settings) -> SqlStore:
    """The database, which must be there. Raises Refused with the path that was looked at."""
    return SqlStore(settings.url, SystemClock())


def has_store(settings: Settings) -> bool:
    """Whether there is a database, of whatever version."""
    from reconciler.adapters.store.database import path_of

    return path_of(settings.url).exists()


def create_store(settings: Settings) -> SqlStore:
    """The database, made or brought up to date. Raises Unavailable if the state directory can't be made or written."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), (settings.state_dir / ".gitignore").open("x") as ignore:
            ignore.write("*\n")
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE,
            f"the state directory {settings.state_dir} can't be made or written: {error.strerror}",
            "give another --state-dir, or see its permissions",
        ) from error
    try:
        return open_store(settings)
    except Refused:  # there is none, or not of this version: what can be done about it, a migration knows
        from reconciler.adapters.store import migrate

        migrate.upgrade(settings.url)
        return open_store(settings)


@contextmanager
def only_daemon(settings: Settings) -> Iterator[None]:
    """Hold the state directory. Raises Refused, with the process that has it, for a second daemon."""
    path = settings.state_dir / "daemon.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        clock, pause = SystemClock(), threading.Event()
        deadline = clock.monotonic() + PROBES_END
        while not _locked(lock, fcntl.LOCK_EX):
            if clock.monotonic() >= deadline:
                holder = os.pread(lock, 32, 0).decode().strip()
                raise Refused(
                    Reason.SETTINGS_INVALID,
                    f"another daemon (process {holder}) uses {settings.state_dir}",
                    "stop it, or give this one a --state-dir of its own",
                )
            pause.wait(0.05)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield
    finally:
        os.close(lock)


def keep_apart(settings: Settings, root: Path) -> None:
    """Raises Refused for a source that is its own state directory, before anything is written there."""
    if settings.state_dir.resolve() == root.resolve():
        raise Refused(
            Reason.SETTINGS_INVALID, f"{root.resolve()} is the state directory itself", "choose another --state-dir"
        )


def keep_to_source(settings: Settings, root: Path) -> None:
    """One state directory, one source: to another one, all jobs of the first would look removed. Raises Refused for a
    second; where the first has moved to is for whoever calls to say."""
    note = settings.state_dir / "source"
    here = os.path.normpath(root.absolute())  # not resolved: `current` may be a link that moves on
    try:
        before = note.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        before = here
    if before != here and Path(before).is_dir():
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"{settings.state_dir} is the state of {before}, not of {here}: all its batches would count as removed",
            f"give this one a --state-dir of its own; if it is the same source in another place, remove {note}",
        )
    note.write_text(f"{here}\n", encoding="utf-8")


def daemon_runs(settings: Settings) -> bool:
    """Whether one holds the state directory now. Asking changes nothing. Where its lock may not even be read, it is
    somebody else's, and there may be one."""
    path = settings.state_dir / "daemon.lock"
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        return not _locked(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def build_preview(
    settings: Settings, root: Path, store: SqlStore | None
) -> tuple[Sequence[Preview], Sequence[Rejected]]:
    """What would run on a directory. Without a store it is assumed that nothing has run."""
    from reconciler.core.facts import Observed
    from reconciler.core.planning import Limits
    from reconciler.engine.catalogue import Catalogue
    from reconciler.engine.preview import preview
    from reconciler.engine.resolve import Resolver

    return preview(
        build_source(settings, root).sync(),
        Catalogue(SOURCE, settings.manifests, settings.max_limit),
        Resolver(build_inventory(settings), Limits(settings.max_running)),
        store.manifests(SOURCE) if store is not None else {},
        store.observe if store is not None else lambda _: Observed(),
        store.pending_requests if store is not None else lambda _: (),
        SystemClock().now(),
    )


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon and what it is watched by."""

    daemon: Daemon
    meter: ProcessMetrics


def build_daemon(settings: Settings, root: Path | None, store: SqlStore, config: Path | None) -> Running:
    """The daemon on one directory, ready to start; on none: it only sees what runs to its end."""
    from reconciler.adapters.metrics import ProcessMetrics
    from reconciler.adapters.statusfile import StatusFiles
    from reconciler.core.planning import Limits
    from reconciler.engine.catalogue import Catalogue
    from reconciler.engine.daemon import Daemon, Pace, views
    from reconciler.engine.reconcile import Reconciler
    from reconciler.engine.resolve import Resolver
    from reconciler.engine.slice import Rhythm
    from reconciler.engine.sources import SourceKeeper

    clock = SystemClock()
    state_dir = settings.state_dir.resolve()
    files = StatusFiles(state_dir)
    sinks = (files,)
    meter = ProcessMetrics()
    limits = Limits(settings.max_running)
    keepers = {}
    if root is not None:
        catalogue = Catalogue(SOURCE, settings.manifests, settings.max_limit)
        keepers[SOURCE] = SourceKeeper(build_source(settings, root), catalogue, store, sinks, clock)
    daemon: Daemon | None = None

    def ended(_: SliceId) -> None:
        if daemon is not None:
            daemon.slice_ended()

    def in_step(source: str, name: str, inventory: Inventory) -> None:
        store.save_servers(source, name, tuple(inventory.hosts.values()))

    executor = LocalExecutor(state_dir / "slices", _worker_command(state_dir, config), dict(os.environ), ended)
    known = views(tuple(keepers.values()))
    reconciler = Reconciler(
        store,
        executor,
        Resolver(build_inventory(settings), limits, in_step),
        sinks,
        known.get,
        clock,
        max_running=settings.max_running,
        status_children=settings.status_children,
        lease=Rhythm().lease,
    )
    daemon = Daemon(
        store,
        executor,
        reconciler,
        keepers,
        clock,
        meter=meter,
        workers=settings.workers,
        pace=Pace(resync=settings.resync),
    )
    meter.queue = daemon.queue.facts
    meter.status_write_errors = lambda: files.write_errors
    return Running(daemon, meter)


def _worker_command(state_dir: Path, config: Path | None) -> Callable[[SliceId, int], Sequence[str]]:
    options = ["--state-dir", str(state_dir), *(["--config", str(config.resolve())] if config else [])]

    def command(slice_id: SliceId, fence: int) -> Sequence[str]:
        # -P: else Python would import from the current directory, which may be a source with a yaml.py at its root.
        return [sys.executable, "-P", "-m", "reconciler.worker", slice_id, str(fence), *options]

    return command


@dataclass(frozen=True, slots=True)
class Web:
    """The daemon's port, and what is shown there."""

    server: WebServer
    metrics: MetricsPage

    def start(self) -> None:
        self.metrics.start()
        self.server.start()

    def stop(self) -> None:
        self.server.stop()
        self.metrics.stop()


def build_web_server(settings: Settings, running: Running, store: SqlStore) -> Web:
    from reconciler.adapters.metrics import MetricsPage, StoreCollector
    from reconciler.web import Health, WebServer, build_web

    page = MetricsPage(running.meter, StoreCollector(store, settings.max_running), SystemClock())

    def health() -> Health:
        try:
            store.ping()
        except Unavailable as error:
            return Health((str(error),))
        return Health(tuple(running.daemon.problems()))

    return Web(WebServer(build_web(page.page, health), settings.http.listen), page)
