"""The only place that knows all the parts: it builds what a command needs out of the settings.

Parts that only some commands need are imported where they are built: the process of a slice comes through here too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from reconciler.adapters import statelock
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.local import LocalExecutor
from reconciler.adapters.store import SqlStore
from reconciler.adapters.store.database import current_schema
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
    from reconciler.adapters.metrics import ProcessMetrics
    from reconciler.adapters.statelock import StateLock
    from reconciler.core.hosts import Inventory
    from reconciler.core.reading import Rejected
    from reconciler.engine.daemon import Daemon
    from reconciler.engine.leading import Lead, Standby
    from reconciler.engine.preview import Change, Preview
    from reconciler.engine.sources import SourceKeeper
    from reconciler.port import Shown, Web
    from reconciler.ports import Sink, Snapshot

PATIENCE = 5.0
"""Seconds beyond the term of a lease within which it shows who has it."""


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
    """Whether there is a database with a schema, of whatever version. Raises Unavailable if its server can't be asked."""
    return current_schema(settings.url) is not None


def create_store(settings: Settings) -> SqlStore:
    """The database, made or brought up to date. Raises Unavailable if the state directory can't be made or written, or
    the database's server is away."""
    make_state_dir(settings)
    try:
        return open_store(settings)
    except Refused:  # there is none, or not of this version: what can be done about it, a migration knows
        from reconciler.adapters.store import migrate

        migrate.upgrade(settings.url)
        return open_store(settings)


def make_state_dir(settings: Settings) -> None:
    """Raises Unavailable if it can't be made or written."""
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


@contextmanager
def only_daemon(settings: Settings) -> Iterator[StateLock]:
    """Hold the state directory. Raises Refused, with the process that has it, for a second daemon."""
    with statelock.hold(settings.state_dir) as lock:
        yield lock


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
    return statelock.is_held(settings.state_dir)


def is_seen_to(settings: Settings, store: SqlStore) -> bool:
    """For people: whether a daemon does what they ask for, the one of this state directory or one elsewhere that leads on
    this database. One elsewhere that died without a word seems to live until another follows it."""
    from reconciler.adapters.store.engines import path_of, read_url
    from reconciler.ports import LEADER

    path = path_of(read_url(settings.url))
    if daemon_runs(settings):
        return True
    if path is not None and path.parent == settings.state_dir.resolve():
        return False  # nobody elsewhere has this database
    lease = store.lease(LEADER)
    return lease is not None and lease.holder != ""


def daemon_process(settings: Settings) -> int | None:
    """The process of the one that holds the state directory now; None: there is none. Raises Refused where that may not
    be asked."""
    return statelock.process_of(settings.state_dir)


def signal_daemon(settings: Settings, number: Signals) -> int | None:
    """Send a signal to the one that holds the state directory now. Returns its process; None: there is none. Raises
    Refused."""
    return statelock.send(settings.state_dir, number)


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
    from reconciler.adapters.statusfile import StatusFiles
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
        sources=store.sources() if store is not None else {},
        shown=StatusFiles(settings.state_dir.resolve()),
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
    """A daemon that leads, and what it is watched by."""

    daemon: Daemon
    keepers: Mapping[str, SourceKeeper]
    branches: Sequence[StatusBranch] = ()

    def newest(self, source: str) -> Snapshot | None:
        """A source as it was read last; None: it was not yet, or is none of this daemon's."""
        keeper = self.keepers.get(source)
        return None if keeper is None else keeper.current()

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


class DaemonProcess:
    """What the process of a daemon keeps from its start to its end, whether it leads meanwhile or waits as a standby."""

    def __init__(self, settings: Settings, store: SqlStore, config: Path | None, lock: StateLock) -> None:
        from reconciler.adapters.ansible import tidy_up
        from reconciler.adapters.metrics import ProcessMetrics
        from reconciler.engine.leading import Former, Leadership

        former = None if lock.former is None else Former(*lock.former)
        state_dir = settings.state_dir.resolve()
        self.store = store
        self.leadership = Leadership(store, f"{socket.gethostname()}:{os.getpid()}", SystemClock(), former)
        self.executor = LocalExecutor(
            state_dir / "slices", _worker_command(state_dir, config), dict(os.environ), self._slice_ended, tidy_up
        )
        self.meter = ProcessMetrics()
        self.meter.leads = lambda: self.leadership.leads
        self._lock = lock
        self._running: Running | None = None

    def lead_or_give_up(self, given_up: Callable[[], bool] = lambda: False) -> Lead | None:
        """The lease, once it is this process's; None: another daemon has it and lives, or nobody can tell, or who waits
        has given up. That takes no longer than a lease that nobody renews."""
        from reconciler.engine.leading import TERM

        clock, pause = SystemClock(), threading.Event()
        until = clock.monotonic() + TERM.total_seconds() + PATIENCE
        while (lead := self.leadership.lead) is None:
            if self.leadership.rival or given_up() or clock.monotonic() > until:
                return None
            pause.wait(0.05)
        return lead

    def has_work(self) -> bool:
        """Whether a slice runs that this state directory has, whoever leads. Raises Unavailable."""
        from reconciler.ports import Liveness

        kept = self.executor.kept()
        own = [part for part in self.store.open_slices() if part.id in kept]
        return any(self.executor.liveness(part.id, part.fence, part.place) is Liveness.ALIVE for part in own)

    def build_standby(self) -> Standby:
        """What it does while another leads."""
        from reconciler.engine.leading import Standby
        from reconciler.engine.settling import Settler
        from reconciler.engine.slice import Rhythm

        return Standby(Settler(self.store, self.executor, SystemClock(), Rhythm().lease).settle_own)

    def build(self, settings: Settings, built: Sequence[BuiltSource], lead: Lead) -> Running:
        """The daemon on these sources, ready to start; on none: it only sees what runs to its end. It is the only one of
        this process: one before it must have been stopped."""
        self._lock.note(lead.fence, self.leadership.holder)
        self._running = build_daemon(settings, built, self, lead)
        return self._running

    def retire(self) -> None:
        """What was built has been stopped."""
        self._running = None
        self.meter.queue = None

    def _slice_ended(self, _: SliceId) -> None:
        running = self._running
        if running is not None:
            running.daemon.slice_ended()


@contextmanager
def daemon_of(settings: Settings, store: SqlStore, config: Path | None) -> Iterator[DaemonProcess]:
    """Be the daemon of this state directory. Raises Refused, with the process that has it, for a second one."""
    with only_daemon(settings) as lock:
        process = DaemonProcess(settings, store, config, lock)
        process.leadership.start()
        try:
            yield process
        finally:
            process.leadership.stop()


def build_daemon(settings: Settings, built: Sequence[BuiltSource], process: DaemonProcess, lead: Lead) -> Running:
    """What the process does as long as it leads by this lease."""
    from reconciler.adapters.disk import nearly_full
    from reconciler.adapters.statusfile import StatusFiles
    from reconciler.core.plans import Limits
    from reconciler.engine.catalogue import Catalogue
    from reconciler.engine.daemon import Daemon, Pace, views
    from reconciler.engine.leading import LeadersExecutor
    from reconciler.engine.reconcile import Reconciler
    from reconciler.engine.resolve import Resolver
    from reconciler.engine.settling import Settler
    from reconciler.engine.slice import Rhythm
    from reconciler.engine.sources import KnownSources, SourceKeeper

    clock = SystemClock()
    store = process.store.fenced(lead.fence)
    executor = LeadersExecutor(process.executor, lead)
    files = StatusFiles(settings.state_dir.resolve())
    branches = tuple(_status_branches(built, settings.state_dir.resolve(), process.meter, lead))
    sinks: tuple[Sink, ...] = (files, *branches)
    limits = Limits(settings.max_running)
    known_sources = KnownSources(store, [each.source.name for each in built], files)
    keepers = {}
    for each in built:
        catalogue = Catalogue(each.source.name, settings.manifests, settings.max_limit)
        keepers[each.source.name] = SourceKeeper(
            each.source, catalogue, store, sinks, clock, known_sources, interval=each.interval
        )

    def in_step(source: str, name: str, inventory: Inventory) -> None:
        store.save_servers(source, name, tuple(inventory.hosts.values()))

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
        meter=process.meter,
        workers=settings.workers,
        nearly_full=partial(nearly_full, settings.state_dir.resolve(), settings.min_free_bytes),
        audit_keep=settings.audit.keep,
        pace=Pace(resync=settings.resync),
    )
    process.meter.expect(
        [each.source.name for each in built],
        [each.source.name for each in built if each.said is not None and each.said.status is not None],
    )
    process.meter.queue = daemon.queue.facts
    process.meter.status_write_errors = lambda: files.write_errors
    return Running(daemon, keepers, branches)


def _status_branches(
    built: Sequence[BuiltSource], state_dir: Path, meter: ProcessMetrics, lead: Lead
) -> Iterator[StatusBranch]:
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
                lead.check,
            )


def _worker_command(state_dir: Path, config: Path | None) -> Callable[[SliceId, int], Sequence[str]]:
    options = ["--state-dir", str(state_dir), *(["--config", str(config.resolve())] if config else [])]

    def command(slice_id: SliceId, fence: int) -> Sequence[str]:
        # -P: else Python would import from the current directory, which may be a source with a yaml.py at its root.
        return [sys.executable, "-P", "-m", "reconciler.worker", slice_id, str(fence), *options]

    return command


def build_web_server(settings: Settings, process: DaemonProcess, built: Sequence[BuiltSource], shown: Shown) -> Web:
    """The port of this process, as these settings have it. Raises Refused if it can't be had."""
    from reconciler.adapters.metrics import MetricsPage, StoreCollector
    from reconciler.port import build_port

    names = [each.source.name for each in built]
    collector = StoreCollector(process.store, names, settings.max_running, settings.metrics.labels)
    page = MetricsPage(process.meter, collector, SystemClock(), lambda: process.leadership.leads)
    return build_port(settings, built, process.store, InventoriesOfSources(settings), page, shown)
