"""Composing by clicking, on real sources: what is offered, what a manifest would come to, and what is written down.

Inventories and the database are the fakes: what Ansible and a daemon make of it, tests/acceptance tells.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler import authoring
from reconciler.authoring import SourcesAuthoring, build_authoring
from reconciler.core.composing import Choice, Composed, compose
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import JobKey, ManifestRecord
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import Catalogue
from reconciler.ports import Planned, Request, RequestKind, Snapshot, Written
from reconciler.settings import Settings, load_settings
from reconciler.sources import BuiltSource, source_of_path, sources_of_settings
from tests.builders import NOON
from tests.fakes.clock import FakeClock
from tests.fakes.hosts import FakeHosts, an_inventory
from tests.fakes.store import FakeStore
from tests.gitrepo import WorkingCopy, git, make_remote

PLAYBOOK = "- hosts: all\n  tasks: []\n"
FILES = {"playbooks/patch.yml": PLAYBOOK, "site.yaml": PLAYBOOK, "inventory/hosts.yml": "all: {}\n"}


def manifest(name: str = "new", **spec: Any) -> str:
    plain = {"playbook": "playbooks/patch.yml", "selector": {"tags": ["group:web"]}, "limit": 2, **spec}
    metadata = {"name": name}
    return yaml.safe_dump(
        {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": metadata, "spec": plain}, sort_keys=False
    )


class Desk:
    """A source, and the door of somebody who composes manifests for it."""

    def __init__(self, folder: Path, settings: Settings, built: BuiltSource) -> None:
        self.root = folder / "source"
        self.settings = settings
        self.built = built
        self.store = FakeStore(FakeClock())
        self.hosts = FakeHosts(an_inventory(["web-1", "web-2", "web-3", "db-1"], {"web": ("web-1", "web-2", "web-3")}))
        self.poked: list[str] = []
        self.snapshot: Snapshot | None = None
        self.door: SourcesAuthoring = build_authoring(
            settings, [built], self.store, self.hosts, self._newest, self._poke
        )
        self.read()

    def _newest(self, name: str) -> Snapshot | None:
        return self.snapshot if name == "default" else None

    def _poke(self, name: str) -> bool:
        self.poked.append(name)
        return True

    def read(self) -> None:
        """As a daemon does after a change."""
        self.snapshot = self.built.source.sync()

    def plan(self, text: str) -> Planned:
        return self.door.plan("default", text)

    def write(self, text: str, message: str = "") -> Written:
        return self.door.write("default", text, "ada", message)

    def refused(self, text: str) -> ReconcilerError:
        with pytest.raises((Refused, Unavailable)) as caught:
            self.write(text)
        assert isinstance(caught.value, Refused | Unavailable)
        return caught.value

    def accept(self, text: str, **changes: Any) -> ManifestRecord:
        """The database knows a manifest, as one that was there."""
        assert self.snapshot is not None
        catalogue = Catalogue("default", ("jobs/**/*.yaml",), 20)
        entry = self.door._read(self.door._places["default"], text)
        (record,) = catalogue.decide([entry], {}, self.snapshot.revision, NOON).changed
        self.store.save_manifests([replace(record, **changes)], [])
        return record

    def close(self) -> None:
        self.door.close()
        self.built.source.close()


def write_files(root: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def settings_of(folder: Path, text: str = "") -> Settings:
    file = folder / "reconciler.toml"
    file.write_text(text)
    return load_settings(file, state_dir=folder / "state")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """On a plain directory."""
    write_files(tmp_path / "source", FILES)
    settings = settings_of(tmp_path, "[source]\nwrite = true\n")
    made = Desk(tmp_path, settings, source_of_path(settings, tmp_path / "source", tmp_path / "state"))
    yield made
    made.close()


class GitDesk(Desk):
    """On a branch of a bare repository, of which `copy` is a clone."""

    def __init__(self, folder: Path, more: str = "write = true", below: str = "") -> None:
        self.bare, self.copy = make_remote(folder)
        self.copy.commit("first", **{f"{below}{path}": text for path, text in FILES.items()})
        self.copy.push()
        table = f'[[sources]]\nname = "default"\nurl = "file://{self.bare}"\nbranch = "main"\n{more}\n'
        settings = settings_of(folder, table)
        (built,) = sources_of_settings(settings, settings.state_dir)
        super().__init__(folder, settings, built)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[GitDesk]:
    made = GitDesk(tmp_path)
    yield made
    made.close()


# == What is offered =================================================================================================
def test_playbooks_are_offered_and_nothing_else_that_is_yaml(desk: Desk) -> None:
    odd = {
        "jobs/a.yaml": manifest("a"),
        "roles/web/tasks/main.yml": PLAYBOOK,
        "playbooks/vars/a.yml": PLAYBOOK,
        ".github/workflows/ci.yml": PLAYBOOK,
        "playbooks/tasks.yml": "- apt: {name: nginx}\n",
        "playbooks/broken.yml": "- [hosts: [\n",
        "requirements.yml": "collections: []\n",
        "more/deep/reboot.yml": PLAYBOOK,
    }
    write_files(desk.root, odd)
    desk.read()
    (offer,) = desk.door.offers()
    assert desk.snapshot is not None
    assert (offer.name, offer.writable, offer.revision) == ("default", True, desk.snapshot.revision)
    assert offer.playbooks == ("more/deep/reboot.yml", "playbooks/patch.yml", "site.yaml")


def test_a_file_is_looked_into_once_for_its_content(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    really = authoring._has_plays

    def look(snapshot: Snapshot, path: str) -> bool:
        looked.append(path)
        return really(snapshot, path)

    monkeypatch.setattr(authoring, "_has_plays", look)
    desk.door.offers()
    desk.door.offers()
    assert sorted(looked) == ["inventory/hosts.yml", "playbooks/patch.yml", "site.yaml"]
    write_files(desk.root, {"site.yaml": "[]\n"})
    desk.read()
    assert desk.door.offers()[0].playbooks == ("playbooks/patch.yml",)
    assert looked[3:] == ["site.yaml"]


def test_of_a_source_with_very_many_files_the_likeliest_are_looked_into(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authoring, "MOST_LOOKED_INTO", 5)
    monkeypatch.setattr(authoring, "MOST_OFFERED", 3)
    write_files(desk.root, {f"other/{number:03}.yml": PLAYBOOK for number in range(20)})
    desk.read()
    assert desk.door.offers()[0].playbooks == ("other/000.yml", "other/001.yml", "playbooks/patch.yml")


def test_a_source_that_was_not_read_yet_offers_nothing(desk: Desk) -> None:
    desk.snapshot = None
    (offer,) = desk.door.offers()
    assert (offer.playbooks, offer.revision) == ((), None)
    with pytest.raises(Unavailable):
        desk.plan(manifest())
    assert isinstance(desk.refused(manifest()), Unavailable)


# == What it would come to ===========================================================================================
def test_the_waves_are_the_planners(desk: Desk) -> None:
    planned = desk.plan(manifest())
    assert [[host.name for host in wave] for wave in planned.waves] == [["web-1", "web-2"], ["web-3"]]
    assert desk.snapshot is not None
    assert (planned.name, planned.problems, planned.refusal) == ("new", (), None)
    assert (planned.revision, planned.exists, planned.warnings) == (desk.snapshot.revision, False, ())


def test_one_by_one_and_no_more_than_the_daemon_allows(desk: Desk) -> None:
    assert [len(wave) for wave in desk.plan(manifest(strategy="sequential")).waves] == [1, 1, 1]
    settings = desk.settings.model_copy(update={"max_running": 1})
    door = build_authoring(settings, [desk.built], desk.store, desk.hosts, lambda _: desk.snapshot, bool)
    assert [len(wave) for wave in door.plan("default", manifest()).waves] == [1, 1, 1]


def test_many_servers_are_warned_of(desk: Desk) -> None:
    desk.hosts.answer = an_inventory([f"h{number}" for number in range(11)])
    assert desk.plan(manifest(selector={"all": True})).warnings == ("ManyHosts: the selector matches 11 hosts",)


@pytest.mark.parametrize(
    ("spec", "words", "hint"),
    [
        ({"selector": {"hosts": ["web-1"]}}, "matches 1 host, minHosts is 2", "minHosts"),
        ({"selector": {"hosts": ["web-1", "nobody"]}}, "nobody", ""),
        ({"selector": {"tags": ["group:nothing"]}}, "matches none of 4 hosts", ""),
        ({"playbook": "playbooks/gone.yml"}, "playbooks/gone.yml", ""),
        ({"playbook": "inventory/hosts.yml"}, "inventory/hosts.yml", ""),
        ({"maxHosts": 2}, "maxHosts is 2", "maxHosts"),
    ],
)
def test_what_would_stall_says_why_and_what_to_do(desk: Desk, spec: dict[str, Any], words: str, hint: str) -> None:
    planned = desk.plan(manifest(**spec))
    assert planned.refusal is not None
    assert words in planned.refusal
    assert hint in planned.hint
    assert (planned.waves, planned.problems) == ((), ())


def test_what_is_no_manifest_says_where_it_is_wrong(desk: Desk) -> None:
    planned = desk.plan(manifest(limit=50))
    (problem,) = planned.problems
    assert (problem.line, "spec.limit must be at most 20" in problem.message) == (10, True)
    assert (planned.name, planned.waves, planned.refusal) == ("new", (), None)
    for text in ("", "[", "a: b", manifest("a") + "---\n" + manifest("b"), "\ud800", "\0"):
        assert desk.plan(text).problems
        assert desk.refused(text).reason is Reason.MANIFEST_INVALID


def test_an_inventory_that_can_not_be_read_is_no_fault_of_the_manifest(desk: Desk) -> None:
    desk.hosts.answer = Unavailable(Reason.INVENTORY_UNREADABLE, "it is away", "wait")
    with pytest.raises(Unavailable, match="it is away"):
        desk.plan(manifest())


def test_only_inventories_that_are_read_anyhow_are_read_for_a_plan(desk: Desk) -> None:
    """Else whoever may look could have any script of the source executed, or any file read out, by calling it one."""
    write_files(desk.root, {"bin/deploy": "#!/bin/sh\n"})
    (desk.root / "bin" / "deploy").chmod(0o755)
    desk.read()
    for inventory in ("bin/deploy", ".", "./bin", ["inventory/hosts.yml", "bin/deploy"]):
        planned = desk.plan(manifest(inventory=inventory))
        assert [word.split(":")[0] for word in planned.warnings] == ["InventoryUnseen"]
        assert (planned.waves, planned.refusal, planned.problems) == ((), None, ())
    assert desk.hosts.asked == []
    assert desk.plan(manifest(inventory="./inventory/hosts.yml")).waves  # that of ansible.cfg or the settings
    desk.accept(manifest("theirs", inventory=["bin/deploy"]))
    assert not desk.plan(manifest(inventory="bin/deploy")).waves
    write_files(desk.root, {"jobs/theirs.yaml": manifest("theirs", inventory=["bin/deploy"])})
    desk.read()
    assert desk.plan(manifest(inventory=["inventory/hosts.yml", "bin/deploy"])).waves


def test_what_keeps_it_from_running_at_once_is_said(desk: Desk) -> None:
    assert [word.split(":")[0] for word in desk.plan(manifest(suspend=True, runOn=[])).warnings] == [
        "Suspended",
        "NotRequested",
    ]
    assert [len(wave) for wave in desk.plan(manifest(suspend=True)).waves] == [2, 1]
    desk.accept(manifest("old"), removed_at=NOON)
    planned = desk.plan(manifest("old"))
    assert ([word.split(":")[0] for word in planned.warnings], planned.exists) == (["UpToDate"], False)
    assert desk.plan(manifest("old", playbook="site.yaml")).warnings == ()
    desk.store.add_sources({"default": Reason.STATE_LOST})
    assert "reconciler adopt" in desk.plan(manifest()).hint


def test_a_name_that_is_there_is_told(desk: Desk) -> None:
    desk.accept(manifest("there"))
    assert desk.plan(manifest("there")).exists
    write_files(desk.root, {"jobs/lies-there.yaml": "{}\n"})
    desk.read()
    assert desk.plan(manifest("lies-there")).exists


def test_planning_leaves_nothing_behind(desk: Desk, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for number in range(5):
        desk.plan(manifest(f"batch-{number}", playbook="site.yaml"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert desk.store.manifests("default") == {}
    assert desk.poked == []


def test_what_is_remembered_of_plans_has_an_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authoring, "PLANS", 10)
    for number in range(35):
        desk.plan(manifest(f"batch-{number}", playbook=f"playbooks/{number}.yml"))
    resolver = desk.door._resolver
    assert len(resolver._selected) == 1
    assert sum(len(found.answers) for found in resolver._inspected.values()) <= 10


def test_the_same_inventories_are_read_once_however_often_they_are_named(desk: Desk) -> None:
    """Whoever may look must not have Ansible started by writing the same thing in another way."""
    desk.accept(manifest("theirs", inventory=["inventory/hosts.yml", "inventory/more.yml"]))
    write_files(desk.root, {"inventory/more.yml": "all: {}\n"})
    desk.read()
    one, more = "inventory/hosts.yml", "inventory/more.yml"
    for named in ([one, more], [one, one, more], [f"./{one}", more, more], [more, one, f"inventory/./{more[10:]}"]):
        assert desk.plan(manifest(inventory=named)).waves
    assert {inventory for inventory, _ in desk.hosts.asked} == {(one, more)}
    assert desk.plan(manifest(inventory=[one, more, one])).waves
    assert desk.hosts.asked[-1][0] == (more, one), "the later one's variables win"


def test_thousands_of_manifests_do_not_make_planning_slow(desk: Desk) -> None:
    write_files(desk.root, {f"jobs/{number}.yaml": manifest(f"job-{number}") for number in range(3000)})
    desk.read()
    desk.plan(manifest())
    begun = time.monotonic()
    desk.plan(manifest("other", playbook="site.yaml"))
    assert time.monotonic() - begun < 1


# == What is written =================================================================================================
def test_a_directory_gets_a_file(desk: Desk) -> None:
    text = manifest().replace("\n", "\r\n")
    written = desk.write(text)
    assert (desk.root / "jobs" / "new.yaml").read_text() == manifest() == written.text
    assert (written.path, written.commit, written.revision) == ("jobs/new.yaml", None, None)
    assert desk.poked == ["default"]


def test_a_repository_gets_a_commit_by_whoever_asked(fleet: GitDesk) -> None:
    written = fleet.write(manifest(), "Patch the web\n\nAs agreed\x1b[31m.")
    assert written.commit is not None
    assert git(fleet.bare, "show", "main:jobs/new.yaml") + "\n" == manifest()
    assert git(fleet.bare, "log", "-1", "--format=%an|%B", "main") == (
        "ada via reconciler|Patch the web\n\nAs agreed[31m."
    )
    assert written.revision == f"main@sha1:{git(fleet.bare, 'rev-parse', 'main')}"
    fleet.read()
    assert fleet.snapshot is not None
    assert (fleet.snapshot.revision, fleet.poked) == (written.revision, ["default"])
    assert fleet.write(manifest("second")).commit is not None
    assert git(fleet.bare, "log", "-1", "--format=%s", "main") == "Add batch second"


def test_what_was_composed_can_be_written(fleet: GitDesk) -> None:
    composed = compose(Choice("playbooks/patch.yml", tags=("group:web",), concurrent_limit=2))
    assert isinstance(composed, Composed)
    assert [len(wave) for wave in fleet.plan(composed.text).waves] == [2, 1]
    assert fleet.write(composed.text).path == "jobs/patch-group-web.yaml"


def test_a_source_that_is_a_folder_of_its_repository(tmp_path: Path) -> None:
    desk = GitDesk(tmp_path, 'path = "fleet"\nwrite = true\nwrite_to = "jobs/clicked"', "fleet/")
    assert desk.write(manifest()).path == "jobs/clicked/new.yaml"
    assert git(desk.bare, "diff", "--name-only", "main^", "main") == "fleet/jobs/clicked/new.yaml"
    desk.close()


def test_the_committed_state_of_a_path(tmp_path: Path) -> None:
    copy = WorkingCopy(tmp_path / "source")
    write_files(copy.place, FILES)
    git(copy.place, "init", "--quiet", "--initial-branch=main")
    copy.commit("first")
    settings = settings_of(tmp_path, "[source]\nwrite = true\n")
    desk = Desk(tmp_path, settings, source_of_path(settings, copy.place, settings.state_dir))
    assert desk.door.offers()[0].writable
    written = desk.write(manifest())
    assert written.commit is not None
    assert (git(copy.place, "status", "--porcelain"), git(copy.place, "rev-parse", "HEAD")) == ("", written.commit.id)
    desk.close()


def ssh_key(folder: Path, name: str, passphrase: str = "") -> Path:
    made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(folder / name)]
    subprocess.run(made, check=True, capture_output=True)
    return folder / name


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_where_commits_must_be_signed_they_are(tmp_path: Path) -> None:
    ours, ada = ssh_key(tmp_path, "ours"), ssh_key(tmp_path, "ada")
    signers = tmp_path / "signers"
    public = [" ".join(key.with_suffix(".pub").read_text().split()[:2]) for key in (ours, ada)]
    signers.write_text(f"reconciler@example.org {public[0]}\nada@example.org {public[1]}\n")
    verify = f'verify = "ssh"\nallowed_signers_file = "{signers}"\nwrite = true\n'
    bare, copy = make_remote(tmp_path)
    for setting in ("gpg.format=ssh", f"user.signingKey={ada}", "commit.gpgSign=true"):
        git(copy.place, "config", *setting.split("=", 1))
    copy.commit("first", **FILES)
    copy.push()

    def door_with(key: Path) -> Desk:
        table = f'[[sources]]\nname = "default"\nurl = "file://{bare}"\n{verify}signing_key_file = "{key}"\n'
        settings = settings_of(tmp_path, table)
        (built,) = sources_of_settings(settings, settings.state_dir)
        return Desk(tmp_path, settings, built)

    for key in (tmp_path / "nowhere", ssh_key(tmp_path, "locked", "a passphrase")):
        desk = door_with(key)
        error = desk.refused(manifest())
        assert (type(error), error.reason, "signing_key_file" in error.hint) == (Refused, Reason.SETTINGS_INVALID, True)
        assert git(bare, "log", "--format=%s", "main") == "first"
        desk.close()
    desk = door_with(ours)
    desk.write(manifest())
    desk.read()
    assert desk.snapshot is not None
    assert desk.snapshot.commit is not None
    assert (desk.snapshot.commit.subject, desk.snapshot.commit.signer) == ("Add batch new", "reconciler@example.org")
    desk.close()


def _in_another_file(copy: WorkingCopy) -> None:
    copy.commit("theirs", **{"jobs/sub/theirs.yml": f"# two\n{manifest('old')}---\n{manifest()}"})


def _in_an_invalid_one(copy: WorkingCopy) -> None:
    copy.commit("theirs", **{"jobs/theirs.yaml": manifest(limit=0)})


def _in_its_place(copy: WorkingCopy) -> None:
    copy.commit("theirs", **{"jobs/new.yaml": manifest("renamed")})


@pytest.mark.parametrize("there", [_in_another_file, _in_an_invalid_one, _in_its_place])
def test_a_name_that_is_taken_is_refused(fleet: GitDesk, there: Callable[[WorkingCopy], None]) -> None:
    """What was pushed since the daemon looked counts, too."""
    there(fleet.copy)
    fleet.copy.push()
    error = fleet.refused(manifest())
    assert (type(error), error.reason) == (Refused, Reason.NAME_TAKEN)
    assert (git(fleet.bare, "log", "-1", "--format=%s", "main"), fleet.poked) == ("theirs", [])
    fleet.write(manifest("new-one"))  # a name that has it in it is another one


def test_a_name_that_is_taken_is_refused_in_a_directory(desk: Desk) -> None:
    write_files(desk.root, {"jobs/theirs.yaml": manifest()})
    desk.read()
    assert desk.refused(manifest()).reason is Reason.NAME_TAKEN
    desk.write(manifest("other"))
    assert desk.refused(manifest("other")).reason is Reason.NAME_TAKEN  # before it was read


def test_the_audit_has_what_was_written_and_what_was_refused(desk: Desk, fleet: GitDesk) -> None:
    key = JobKey("default", "patch-new")
    for each in (desk, fleet):
        written = each.write(manifest("patch-new"), "For the new racks\n\nAs agreed.")
        each.refused(manifest("patch-new"))
        each.read()
        refused, done = each.store.requests(key, None, 10)
        assert (done.kind, done.by) == (RequestKind.WRITE, "ada")
        assert done.reason == "For the new racks\n\nAs agreed."
        said = f", as {written.revision}" if written.revision else ""
        assert done.result == f"written to jobs/patch-new.yaml{said}"
        assert refused.result is not None
        assert refused.result.startswith("refused: jobs/patch-new.yaml ")


def test_what_was_written_is_no_failure_because_the_database_is_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Request) -> bool:
        raise Unavailable(Reason.STORE_UNAVAILABLE, "no connection")

    monkeypatch.setattr(desk.store, "add_request", away)
    assert desk.write(manifest("patch-new")).path == "jobs/patch-new.yaml"
    assert (desk.root / "jobs" / "patch-new.yaml").exists()


def test_links_and_submodules_are_no_manifests_to_look_into(fleet: GitDesk) -> None:
    (fleet.copy.place / "jobs").mkdir()
    (fleet.copy.place / "jobs" / "out.yaml").symlink_to("/etc/passwd")
    fleet.copy.commit("odd")
    fleet.copy.push()
    assert fleet.write(manifest()).commit is not None


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "a" * 64, "", "-x", "a\nb", "."])
def test_hostile_names_are_refused(desk: Desk, name: str) -> None:
    assert desk.refused(manifest(name)).reason is Reason.MANIFEST_INVALID
    assert not (desk.root / "jobs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "write = true"),
        ("write = true\nwrite_to = 'manifests'", "write_to"),
        ("write = true\nverify = 'ssh'\nallowed_signers_file = 'signers'", "signature"),
        ("write = true\ntag = 'v1'", "branch"),
    ],
)
def test_where_nothing_may_be_written_it_is_said_why(tmp_path: Path, more: str, words: str) -> None:
    table = '[[sources]]\nname = "default"\nurl = "https://example.org/x.git"\n'
    settings = settings_of(tmp_path, table + more)
    built = sources_of_settings(settings, settings.state_dir)
    door = build_authoring(settings, built, FakeStore(FakeClock()), FakeHosts(an_inventory([])), lambda _: None, bool)
    assert [offer.writable for offer in door.offers()] == [False]
    with pytest.raises(Refused) as caught:
        door.write("default", manifest(), "ada", "")
    assert (caught.value.reason, words in caught.value.hint) == (Reason.NOT_WRITABLE, True)


def test_a_source_that_nobody_knows(desk: Desk) -> None:
    for ask in (lambda: desk.door.plan("other", manifest()), lambda: desk.door.write("other", manifest(), "ada", "")):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.reason is Reason.SOURCE_UNKNOWN


def test_two_who_write_at_once_both_get_there(fleet: GitDesk) -> None:
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda number: fleet.write(manifest(f"batch-{number}")), range(4)))
    assert len({each.revision for each in written}) == 4
    listed = git(fleet.bare, "ls-tree", "--name-only", "main", "jobs/").splitlines()
    assert listed == [f"jobs/batch-{number}.yaml" for number in range(4)]


def test_of_two_who_want_the_same_name_one_is_refused(fleet: GitDesk, desk: Desk) -> None:
    for each in (fleet, desk):

        def write(number: int, at: Desk = each) -> Reason | None:
            try:
                at.write(manifest(limit=number + 1))
            except Refused as error:
                return error.reason
            return None

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(write, range(4)), key=str) == [Reason.NAME_TAKEN] * 3 + [None]


def test_nothing_more_is_pushed_once_it_is_closed(fleet: GitDesk) -> None:
    fleet.door.close()
    assert isinstance(fleet.refused(manifest()), Unavailable)
    assert git(fleet.bare, "log", "--format=%s", "main") == "first"


def test_the_key_of_a_job_is_its_own(desk: Desk) -> None:
    """What is planned in one name is never taken for what is known of a job."""
    record = desk.accept(manifest("planned", selector={"hosts": ["web-1", "db-1"]}))
    assert record.key == JobKey("default", "planned")
    assert [len(wave) for wave in desk.plan(manifest("another")).waves] == [2, 1]
