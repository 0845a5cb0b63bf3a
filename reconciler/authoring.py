"""Composing manifests by clicking: what the sources of a daemon offer, what a manifest would come to, and putting it there.

A manifest is put into a source as a person would do it: by a commit, or, where the source is a plain directory, by a
file. Nobody but git and the audit knows who it was.
"""

from __future__ import annotations

import posixpath
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.directory import DirectorySource
from reconciler.adapters.newfile import put_new
from reconciler.adapters.snapshots import OUTSIDE, SUBMODULE
from reconciler.core.composing import is_playbook
from reconciler.core.documents import Problem
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import Cause, CauseKind, JobKey, ManifestRecord, Observed
from reconciler.core.manifest import BatchJobSpec, RunOn
from reconciler.core.planning import plan
from reconciler.core.plans import Blocked, Desired, Limits
from reconciler.core.reading import Parsed, Rejected, parse_manifests
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from reconciler.core.status import Phase
from reconciler.engine.catalogue import Catalogue, glob_pattern
from reconciler.engine.resolve import Resolver
from reconciler.ports import Planned, PlannedHost, Request, RequestKind, SourceOffer, Written
from reconciler.settings import GitSourceSettings, Settings, SourceSettings
from reconciler.sources import DEFAULT, BuiltSource, build_git

if TYPE_CHECKING:
    from reconciler.adapters.git.repository import Repository
    from reconciler.adapters.git.writing import Writer
    from reconciler.ports import Hosts, JobStore, Snapshot

log = structlog.get_logger()

PLANS = 256
"""Manifests planned after which what was learned of their playbooks is learned anew, so that it has an end."""

MOST_LOOKED_INTO, MOST_OFFERED = 2000, 500
"""YAML files of a source that are looked into for plays, and playbooks that are offered."""

LONGEST_SUBJECT, LONGEST_MESSAGE = 200, 4000
"""Characters of a commit's message: its first line, and all of it."""

_NO_PLAYBOOKS = frozenset(
    [
        "collections",
        "defaults",
        "files",
        "group_vars",
        "handlers",
        "host_vars",
        "library",
        "meta",
        "molecule",
        "roles",
        "tasks",
        "templates",
        "vars",
    ]
)
"""Folders whose YAML files are something else."""

_PLANNED = "planned"
"""The job in whose name a manifest is planned: what is remembered of a job is remembered of one only."""


def build_authoring(
    settings: Settings,
    built: Sequence[BuiltSource],
    store: JobStore,
    hosts: Hosts,
    newest: Callable[[str], Snapshot | None],
    poke: Callable[[str], bool],
) -> SourcesAuthoring:
    """For the sources of a daemon (`built`: none of them is read or closed here). `hosts` reads their inventories;
    `newest` is a source as the daemon has read it last, None while it has not; `poke` reads one at once. To be built anew
    when the settings change, and closed before."""
    places = [_place_of(settings, each) for each in built]
    return SourcesAuthoring(settings, places, store, hosts, newest, poke)


# -- where manifests go ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Place:
    """A source, as somebody who writes into it has to know it. `folder` is where it is in its repository; `writer` None:
    it is a directory, and `root` its place. `forbidden`: why nothing may be put into it."""

    name: str
    write_to: str
    folder: str
    root: Path
    writer: Writer | None
    forbidden: Refused | None

    def path_of(self, name: str) -> str:
        return posixpath.join(self.write_to, f"{name}.yaml")


def _place_of(settings: Settings, built: BuiltSource) -> _Place:
    name, said = built.source.name, built.said
    if said is None:
        own, table = settings.source, "[source]"
        if isinstance(built.source, DirectorySource):
            forbidden = _forbidden(settings, name, own, table)
            return _Place(name, own.write_to, "", Path(built.place), None, forbidden)
        said = GitSourceSettings(name=DEFAULT, url=built.place, write=own.write, write_to=own.write_to)
    else:
        table = "its [[sources]]"
    forbidden = _forbidden(settings, name, said, table) or _forbidden_by_git(said)
    writer = _writer(settings, said) if forbidden is None else None
    return _Place(name, said.write_to, said.path, Path(), writer, forbidden)


def _forbidden(settings: Settings, name: str, said: SourceSettings | GitSourceSettings, table: str) -> Refused | None:
    if not said.write:
        return Refused(
            Reason.NOT_WRITABLE,
            f"nothing may be written to the source {name} from here",
            f"commit the manifest by hand, or set write = true in {table}",
        )
    sample = posixpath.join(said.write_to, "name.yaml")
    if not any(glob_pattern(glob).fullmatch(sample) for glob in settings.manifests):
        return Refused(
            Reason.NOT_WRITABLE,
            f"the source {name} is to be written to {said.write_to or 'its root'}, where no manifest is looked for",
            f"set write_to in {table} to a folder that the setting manifests names",
        )
    return None


def _forbidden_by_git(said: GitSourceSettings) -> Refused | None:
    if said.tag is not None:
        return Refused(
            Reason.NOT_WRITABLE,
            f"the source {said.name} follows the tag {said.tag}, and a commit moves no tag",
            "let it follow a branch",
        )
    if said.verify != "none" and said.signing_key_file is None:
        return Refused(
            Reason.NOT_WRITABLE,
            f"commits of the source {said.name} must be signed by somebody listed, and reconciler has no key",
            "take the manifest, and commit it with a signature of your own; or see signing_key_file",
        )
    return None


def _writer(settings: Settings, said: GitSourceSettings) -> Writer:
    from reconciler.adapters.git import Followed
    from reconciler.adapters.git.writing import LocalWriter, RemoteWriter

    scratch = settings.state_dir.resolve() / "git" / said.name
    git, followed = build_git(said, scratch), Followed(said.branch)
    key = None if said.signing_key_file is None else said.signing_key_file.expanduser().resolve()
    if parse_address(said.url).local:
        return LocalWriter(git, Path(said.url).expanduser().resolve(), followed, key)
    return RemoteWriter(git, scratch / "write.git", scratch / "mirror.git", followed, key)


# -- the door --------------------------------------------------------------------------------------------------------
class SourcesAuthoring:
    """See ports.Authoring. Safe from several threads."""

    def __init__(
        self,
        settings: Settings,
        places: Sequence[_Place],
        store: JobStore,
        hosts: Hosts,
        newest: Callable[[str], Snapshot | None],
        poke: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._places = {place.name: place for place in places}
        self._store = store
        self._hosts = hosts
        self._newest = newest
        self._poke = poke
        self._globs = tuple(glob_pattern(glob) for glob in settings.manifests)
        self._limits = Limits(settings.max_running)
        self._resolver = Resolver(hosts, self._limits)
        self._planned = 0
        self._playbooks = {place.name: _Playbooks(self._is_manifest) for place in places}
        self._inventories: dict[str, tuple[str, Set[str]]] = {}
        self._writing = threading.Lock()

    def close(self) -> None:
        """What is being pushed ends, and raises Unavailable."""
        for place in self._places.values():
            if place.writer is not None:
                place.writer.close()

    def offers(self) -> Sequence[SourceOffer]:
        return tuple(self._offer(place) for place in self._places.values())

    def _offer(self, place: _Place) -> SourceOffer:
        snapshot = self._newest(place.name)
        writable = place.forbidden is None
        if snapshot is None:
            return SourceOffer(place.name, writable, (), None)
        return SourceOffer(place.name, writable, self._playbooks[place.name].of(snapshot), snapshot.revision)

    # -- planning ----------------------------------------------------------------------------------------------------
    def plan(self, source: str, text: str) -> Planned:
        place = self._place(source)
        snapshot = self._newest(source)
        if snapshot is None:
            raise Unavailable(
                Reason.SOURCE_UNAVAILABLE, f"the source {source} was not read yet", "see: reconciler sources"
            )
        entry = self._read(place, text)
        if isinstance(entry, Rejected):
            return Planned(problems=entry.problems, name=entry.name, revision=snapshot.revision)
        if not self._known_inventories(snapshot) >= set(map(posixpath.normpath, entry.job.spec.inventory)):
            return self._not_looked_up(place, entry, snapshot)
        self._planned += 1
        if self._planned % PLANS == 0:
            self._resolver = Resolver(self._hosts, self._limits)
        return self._plan(place, entry, snapshot)

    def _known_inventories(self, snapshot: Snapshot) -> Set[str]:
        """Paths that inventories are read from anyhow. Whoever may look must not have the daemon execute whatever else in
        a source can be executed, nor read out to them whatever else can be read, by calling it an inventory."""
        revision, known = self._inventories.get(snapshot.source, ("", frozenset()))
        if revision != snapshot.revision:
            records = self._store.manifests(snapshot.source).values()
            named = [path for record in records if record.removed_at is None for path in record.spec.inventory]
            with suppress(ReconcilerError):  # there is none by default
                named += self._hosts.paths(snapshot, ())
            known = frozenset(map(posixpath.normpath, named))
            self._inventories[snapshot.source] = (snapshot.revision, known)
        return known

    def _not_looked_up(self, place: _Place, entry: Parsed, snapshot: Snapshot) -> Planned:
        name = entry.job.metadata.name
        warning = "InventoryUnseen: no manifest has this inventory yet, so who is in it is not looked up: reconciler plan does"
        exists = self._exists(place, name, snapshot)
        return Planned(name=name, warnings=(warning,), revision=snapshot.revision, exists=exists)

    def _plan(self, place: _Place, entry: Parsed, snapshot: Snapshot) -> Planned:
        """The planner's own answer for a run on all that are selected, were the manifest in the source as that is now."""
        now, name = _now(), entry.job.metadata.name
        held = self._store.sources().get(place.name)
        catalogue = Catalogue(place.name, (), self._settings.max_limit)
        (record,) = catalogue.decide([entry], {}, snapshot.revision, now, held=held).changed
        asked_for = replace(record, key=JobKey(place.name, _PLANNED), spec=_with_inventories_once(record.spec))
        desired = self._resolver.resolve(asked_for, snapshot)
        desired = replace(desired, record=replace(record, spec=record.spec.model_copy(update={"suspend": False})))
        asked = Cause(CauseKind.SPEC_CHANGED, "generation:1", "the manifest is new", now)
        planned = plan(desired, Observed((asked,)), now)
        blocked = planned.blocked
        if blocked is not None and not blocked.permanent:
            raise Unavailable(blocked.reason, blocked.message, blocked.hint)
        return Planned(
            name=name,
            waves=_waves(desired, planned.waves),
            warnings=(*planned.warnings, *self._notes(place, record)),
            refusal=None if blocked is None else blocked.message,
            hint="" if blocked is None else blocked.hint,
            revision=snapshot.revision,
            exists=self._exists(place, name, snapshot),
        )

    def _notes(self, place: _Place, record: ManifestRecord) -> Iterator[str]:
        """What keeps it from running at once, though nothing is wrong with it."""
        spec = record.spec
        if spec.suspend:
            yield "Suspended: nothing starts as long as the manifest says suspend"
        if RunOn.SPEC not in spec.run_on:
            yield "NotRequested: by its runOn it runs only when it is asked for"
        before = self._store.manifest(record.key)
        if before is not None and before.removed_at is not None and before.work_digest == record.work_digest:
            yield "UpToDate: a batch of this name and with the same work was here before: it runs only when it is asked for"
        for pause in self._store.pauses():
            if pause.source in (None, place.name):
                yield f"Paused: {pause}"

    def _exists(self, place: _Place, name: str, snapshot: Snapshot) -> bool:
        if place.path_of(name) in snapshot.files:
            return True
        key = JobKey(place.name, name)
        record = self._store.manifest(key)
        if record is not None:
            return record.removed_at is None
        status = self._store.status(key)
        return status is not None and status.status.phase is Phase.INVALID

    # -- writing -----------------------------------------------------------------------------------------------------
    def write(self, source: str, text: str, by: str, message: str) -> Written:
        place = self._place(source)
        if place.forbidden is not None:
            raise Refused(place.forbidden.reason, place.forbidden.message, place.forbidden.hint)
        text = text.replace("\r\n", "\n").rstrip("\n") + "\n"
        entry = self._read(place, text)
        if isinstance(entry, Rejected):
            first = entry.first
            raise Refused(Reason.MANIFEST_INVALID, f"{first.line}:{first.column}: {first.message}", first.hint)
        name = entry.job.metadata.name
        path = place.path_of(name)
        whole = _message(message, name)
        asked = Request(uuid.uuid4().hex, RequestKind.WRITE, JobKey(source, name), None, by, whole.strip(), _now())
        try:
            if place.writer is None:
                written = self._write_file(place, name, path, text)
            else:
                written = self._commit(place, name, path, text, by, whole)
        except Refused as error:
            self._audit(replace(asked, result=f"refused: {error.message}"))
            raise
        except Unavailable as error:
            self._audit(replace(asked, result=f"failed: {error.message}"))
            raise
        log.info("manifest_written", source=source, name=name, path=path, by=by, revision=written.revision)
        self._poke(source)
        at = "" if written.revision is None else f", as {written.revision}"
        self._audit(replace(asked, result=f"written to {path}{at}"))
        return written

    def _audit(self, request: Request) -> None:
        """What was written is written, whether or not the database can be told: the log has it in any case."""
        try:
            self._store.add_request(replace(request, answered_at=_now()))
        except Unavailable as error:
            log.warning("manifest_not_in_audit", job=str(request.key), by=request.by, why=str(error))

    def _write_file(self, place: _Place, name: str, path: str, text: str) -> Written:
        snapshot = self._newest(place.name)
        if snapshot is None:
            raise Unavailable(
                Reason.SOURCE_UNAVAILABLE, f"the source {place.name} was not read yet", "see: reconciler sources"
            )
        with self._writing:
            self._see_that_it_is_free(name, snapshot.files, snapshot.read)
            put_new(place.root, path, text.encode())
        return Written(place.name, name, path, text, None, None)

    def _commit(self, place: _Place, name: str, path: str, text: str, by: str, message: str) -> Written:
        from reconciler.adapters.git.writing import NewFile

        assert place.writer is not None  # it is no directory
        bounds = self._settings.git

        def look(repository: Repository, commit: str) -> None:
            listed = repository.tree(commit, place.folder, bounds.max_files).files
            files = {path: blob for path, blob in listed.items() if blob not in (OUTSIDE, SUBMODULE)}
            self._see_that_it_is_free(name, files, lambda path: repository.content(files[path], bounds.max_bytes))

        whole = posixpath.join(place.folder, path)
        landed = place.writer.add(NewFile(whole, text.encode(), by, message), look)
        return Written(place.name, name, path, text, landed.commit, landed.revision)

    def _see_that_it_is_free(self, name: str, files: Mapping[str, str], read: Callable[[str], bytes]) -> None:
        """Raises Refused (NameTaken) if another manifest has the name. Only what has it somewhere is looked into."""
        for path in filter(self._is_manifest, files):
            try:
                content = read(path)
            except Refused:  # it can't be read, so nothing is known to be in it
                continue
            if name.encode() not in content:
                continue
            for entry in parse_manifests(content, path, self._settings.max_limit):
                named = entry.job.metadata.name if isinstance(entry, Parsed) else entry.name
                if named == name:
                    raise Refused(
                        Reason.NAME_TAKEN, f"{path} has a manifest named {name} already", "choose another name"
                    )

    # -- the rest ----------------------------------------------------------------------------------------------------
    def _place(self, source: str) -> _Place:
        if source not in self._places:
            raise Refused(
                Reason.SOURCE_UNKNOWN,
                f"there is no source {source} here",
                f"it is one of: {', '.join(self._places)}" if self._places else "this daemon has none",
            )
        return self._places[source]

    def _read(self, place: _Place, text: str) -> Parsed | Rejected:
        """The one manifest that the text is."""
        path = place.path_of("manifest")
        entries = parse_manifests(text.encode("utf-8", "surrogatepass"), path, self._settings.max_limit)
        if len(entries) == 1:
            return entries[0]
        line = entries[1].line if isinstance(entries[1], Parsed) else entries[1].first.line
        problem = Problem(path, 2, line, 1, f"this is {len(entries)} manifests", "one is put into a source at a time")
        return Rejected(path, 2, None, (problem,))

    def _is_manifest(self, path: str) -> bool:
        return any(glob.fullmatch(path) for glob in self._globs)


def _with_inventories_once(spec: BatchJobSpec) -> BatchJobSpec:
    """The same inventories, each once, where it counts: the later one's variables win. Else whoever may look could have the
    daemon read the same ones again and again, by naming them twice, and three times, and by another spelling."""
    paths = dict.fromkeys(map(posixpath.normpath, reversed(spec.inventory)))
    return spec.model_copy(update={"inventory": tuple(paths)[::-1]})


def _now() -> datetime:
    return SystemClock().now()


def _waves(desired: Desired, waves: Sequence[Sequence[str]]) -> tuple[tuple[PlannedHost, ...], ...]:
    if isinstance(desired.hosts, Blocked):
        return ()
    addresses = {host.name: host.address for host in desired.hosts}
    return tuple(tuple(PlannedHost(host, addresses[host]) for host in wave) for wave in waves)


def _message(given: str, name: str) -> str:
    """A commit's message: what was given, without what a terminal would obey."""
    printable = "".join(char for char in given.replace("\r\n", "\n") if char == "\n" or char.isprintable())
    subject, _, body = printable.strip().partition("\n")
    whole = f"{subject.strip()[:LONGEST_SUBJECT] or f'Add batch {name}'}\n"
    return whole + (f"\n{body.strip()[:LONGEST_MESSAGE]}\n" if body.strip() else "")


class _Playbooks:
    """The playbooks of one source. A file is looked into once for its content."""

    def __init__(self, is_manifest: Callable[[str], bool]) -> None:
        self._is_manifest = is_manifest
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, bool]] = {}
        self._found: tuple[str, tuple[str, ...]] | None = None

    def of(self, snapshot: Snapshot) -> tuple[str, ...]:
        with self._lock:
            if self._found is None or self._found[0] != snapshot.revision:
                self._known = self._look(snapshot)
                found = sorted(path for path, (_, plays) in self._known.items() if plays)
                self._found = (snapshot.revision, tuple(found[:MOST_OFFERED]))
            return self._found[1]

    def _look(self, snapshot: Snapshot) -> dict[str, tuple[str, bool]]:
        candidates = sorted(filter(self._may_be_one, snapshot.files), key=_likely)[:MOST_LOOKED_INTO]
        looked: dict[str, tuple[str, bool]] = {}
        for path in candidates:
            digest = snapshot.files[path]
            known = self._known.get(path)
            try:
                looked[path] = (
                    known if known is not None and known[0] == digest else (digest, _has_plays(snapshot, path))
                )
            except ReconcilerError:  # it is not to be read, or has just changed
                continue
        return looked

    def _may_be_one(self, path: str) -> bool:
        *folders, _ = path.split("/")
        if not re.search(r"\.ya?ml$", path) or _NO_PLAYBOOKS.intersection(folders) or path.startswith("."):
            return False
        return "/." not in path and not self._is_manifest(path)


def _has_plays(snapshot: Snapshot, path: str) -> bool:
    return is_playbook(snapshot.read(path))


def _likely(path: str) -> tuple[bool, int, str]:
    """Where people look for playbooks first."""
    return "playbooks" not in path.split("/")[:-1], path.count("/"), path
