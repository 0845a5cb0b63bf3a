"""The only place that knows all the parts: it builds what a command needs out of the settings.

Parts that only some commands need are imported where they are built: the process of a slice comes through here too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.local import LocalExecutor
from reconciler.adapters.store import SqlStore
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.settings import Settings
from reconciler.sources import (
    DEFAULT,
    BuiltSource,
    access_of,
    build_git,
    for_a_look,
    forget_other_folders,
    source_of_path,
    sources_of_settings,
    two_commits,
)

if TYPE_CHECKING:
    from reconciler.adapters.ansible import AnsibleOptions
    from reconciler.adapters.git.publisher import StatusBranch
    from reconciler.adapters.inventory import AnsibleInventory
    from reconciler.adapters.metrics import MetricsPage, ProcessMetrics
    from reconciler.core.hosts import Inventory
    from reconciler.core.reading import Rejected
    from reconciler.engine.daemon import Daemon
    from reconciler.engine.preview import Change, Preview
    from reconciler.ports import Sink, Snapshot
    from reconciler.web import WebServer

PROBES_END = 1.0
"""Seconds within which whoever only asks whether a daemon runs has let go of its lock."""


def ansible_options(settings: Settings, source: str | None = None) -> AnsibleOptions:
    """How Ansible is started for a source: as its own settings say, else as those of all."""
    from reconciler.adapters.ansible import AnsibleOptions

    own = (each.ansible for each in settings.sources if each.name == source and each.ansible is not None)
    said = next(own, settings.ansible)
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


class InventoriesOfSources:
    """The inventories of every source, each read as its own settings of Ansible say."""

    def __init__(self, settings: Settings) -> None:
        self._own = {each.name: build_inventory(settings, each.name) for each in settings.sources}
        self._others = build_inventory(settings)

    def load(self, snapshot: Snapshot, inventory: tuple[str, ...], *, fresh: bool = False) -> Inventory:
        return self._of(snapshot).load(snapshot, inventory, fresh=fresh)

    def paths(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> tuple[str, ...]:
        return self._of(snapshot).paths(snapshot, inventory)

    def _of(self, snapshot: Snapshot) -> AnsibleInventory:
        return self._own.get(snapshot.source, self._others)


def build_inventory(settings: Settings, source: str | None = None) -> AnsibleInventory:
    from reconciler.adapters.inventory import AnsibleInventory, InventoryOptions

    ansible = ansible_options(settings, source)
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


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would run. `unread` says which sources could not be read, and why."""

    previews: Sequence[Preview]
    rejected: Sequence[Rejected]
    unread: Mapping[str, ReconcilerError]


def build_forecast(
    settings: Settings,
    root: Path | None,
    store: SqlStore | None,
    *,
    only: str | None = None,
    working_tree: bool = False,
) -> Forecast:
    """What would run of a path, or of the sources of the settings (`only`: of this one). Without a store it is assumed that
    nothing has run."""
    previews: list[Preview] = []
    rejected: list[Rejected] = []
    unread: dict[str, ReconcilerError] = {}
    with for_a_look(settings, root, working_tree=working_tree) as built:
        for each in built:
            if only is not None and each.source.name != only:
                continue
            try:
                found, wrong = preview_of(settings, each.source.sync(), store)
            except ReconcilerError as error:
                unread[each.source.name] = error
                continue
            previews += found
            rejected += wrong
    return Forecast(previews, rejected, unread)


def preview_of(
    settings: Settings, snapshot: Snapshot, store: SqlStore | None
) -> tuple[Sequence[Preview], Sequence[Rejected]]:
    """What would run of one source as it is now."""
    from reconciler.core.facts import Observed
    from reconciler.core.plans import Limits
    from reconciler.engine.catalogue import Catalogue
    from reconciler.engine.preview import preview
    from reconciler.engine.resolve import Resolver

    return preview(
        snapshot,
        Catalogue(snapshot.source, settings.manifests, settings.max_limit),
        Resolver(InventoriesOfSources(settings), Limits(settings.max_running)),
        store.manifests(snapshot.source) if store is not None else {},
        store.observe if store is not None else lambda _: Observed(),
        store.pending_requests if store is not None else lambda _: (),
        SystemClock().now(),
    )


def build_change(settings: Settings, place: Path, against: str) -> Change:
    """What merging the commit that is checked out into another revision would run."""
    from reconciler.core.plans import Limits
    from reconciler.engine.catalogue import Catalogue
    from reconciler.engine.preview import preview_change
    from reconciler.engine.resolve import Resolver

    def resolver() -> Resolver:
        return Resolver(InventoriesOfSources(settings), Limits(settings.max_running))

    with two_commits(settings, place, against) as (base, head):
        catalogue = Catalogue(DEFAULT, settings.manifests, settings.max_limit)
        return preview_change(base, head, catalogue, resolver, SystemClock().now())


def build_sources(
    settings: Settings, root: Path | None, store: SqlStore, *, working_tree: bool
) -> Sequence[BuiltSource]:
    """The sources of a daemon: a path, or those of the settings. Raises Refused for what can't be followed with what this
    state directory already knows."""
    state_dir = settings.state_dir.resolve()
    if root is not None:
        keep_to_source(settings, root)
        return (source_of_path(settings, root, state_dir, working_tree=working_tree),)
    open_in = {key.source for key, _ in store.open_runs()}
    for said in settings.sources:
        forget_other_folders(said, state_dir, runs_open=said.name in open_in)
    return sources_of_settings(settings, state_dir)


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon and what it is watched by."""

    daemon: Daemon
    meter: ProcessMetrics
    branches: Sequence[StatusBranch] = ()

    def start(self, *, once: bool = False) -> None:
        for branch in self.branches:
            branch.start()
        self.daemon.start(once=once)

    def stop(self, patience: float) -> None:
        """The daemon first: what it says last is shown, too."""
        self.daemon.stop(patience)
        for branch in self.branches:
            branch.finish()
        until = SystemClock().monotonic() + patience
        for branch in self.branches:
            branch.close(max(0.0, until - SystemClock().monotonic()))


def build_daemon(settings: Settings, built: Sequence[BuiltSource], store: SqlStore, config: Path | None) -> Running:
    """The daemon on these sources, ready to start; on none: it only sees what runs to its end."""
    from reconciler.adapters.metrics import ProcessMetrics
    from reconciler.adapters.statusfile import StatusFiles
    from reconciler.core.plans import Limits
    from reconciler.engine.catalogue import Catalogue
    from reconciler.engine.daemon import Daemon, Pace, views
    from reconciler.engine.reconcile import Reconciler
    from reconciler.engine.resolve import Resolver
    from reconciler.engine.settling import Settler
    from reconciler.engine.slice import Rhythm
    from reconciler.engine.sources import SourceKeeper

    clock = SystemClock()
    state_dir = settings.state_dir.resolve()
    files = StatusFiles(state_dir)
    meter = ProcessMetrics(
        [each.source.name for each in built],
        [each.source.name for each in built if each.said is not None and each.said.status is not None],
    )
    branches = tuple(_status_branches(built, state_dir, meter))
    sinks: tuple[Sink, ...] = (files, *branches)
    limits = Limits(settings.max_running)
    keepers = {}
    for each in built:
        catalogue = Catalogue(each.source.name, settings.manifests, settings.max_limit)
        keepers[each.source.name] = SourceKeeper(each.source, catalogue, store, sinks, clock, interval=each.interval)
    daemon: Daemon | None = None

    def ended(_: SliceId) -> None:
        if daemon is not None:
            daemon.slice_ended()

    def in_step(source: str, name: str, inventory: Inventory) -> None:
        store.save_servers(source, name, tuple(inventory.hosts.values()))

    executor = LocalExecutor(state_dir / "slices", _worker_command(state_dir, config), dict(os.environ), ended)
    known = views(tuple(keepers.values()))
    settler = Settler(store, executor, clock, Rhythm().lease)
    reconciler = Reconciler(
        store,
        executor,
        Resolver(InventoriesOfSources(settings), limits, in_step),
        sinks,
        known.get,
        clock,
        max_running=settings.max_running,
        status_children=settings.status_children,
        settler=settler,
    )
    daemon = Daemon(
        store,
        executor,
        reconciler,
        settler,
        keepers,
        clock,
        meter=meter,
        workers=settings.workers,
        pace=Pace(resync=settings.resync),
    )
    meter.queue = daemon.queue.facts
    meter.status_write_errors = lambda: files.write_errors
    return Running(daemon, meter, branches)


def _status_branches(built: Sequence[BuiltSource], state_dir: Path, meter: ProcessMetrics) -> Iterator[StatusBranch]:
    """What shows the status of those sources in git that want it."""
    from reconciler.adapters.git.publisher import StatusBranch

    for each in built:
        if each.said is not None and each.said.status is not None:
            name, scratch = each.source.name, state_dir / "git" / each.source.name
            access = access_of(each.said)
            yield StatusBranch(
                build_git(each.said, scratch),
                name,
                state_dir / "status" / name,
                scratch / "status.git",
                str(Path(access.address.text).expanduser().resolve()) if access.address.local else access.address.text,
                each.said.status.branch,
                each.said.status.interval,
                partial(meter.status_pushed, name),
            )


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


def build_web_server(settings: Settings, running: Running, store: SqlStore, built: Sequence[BuiltSource]) -> Web:
    from reconciler.adapters.metrics import MetricsPage, StoreCollector
    from reconciler.web import Health, Hook, WebServer, build_web

    page = MetricsPage(running.meter, StoreCollector(store, settings.max_running), SystemClock())

    def health() -> Health:
        try:
            store.ping()
        except Unavailable as error:
            return Health((str(error),))
        return Health(tuple(running.daemon.problems()))

    secrets = {each.source.name: each.hook_secret for each in built if each.hook_secret is not None}
    hooks = {name: Hook(secret, partial(running.daemon.poke, name)) for name, secret in secrets.items()}
    return Web(WebServer(build_web(page.page, health, hooks), settings.http.listen), page)
