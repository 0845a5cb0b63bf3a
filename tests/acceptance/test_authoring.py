"""A manifest that was composed and written by the daemon's door is what then runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.app import InventoriesOfSources, open_store
from reconciler.authoring import SourcesAuthoring, build_authoring
from reconciler.core.composing import Choice, Composed, compose
from reconciler.settings import load_settings
from reconciler.sources import for_a_look
from tests.acceptance.gitwork import GitWorkspace
from tests.acceptance.workspace import Workspace, wait_for
from tests.gitrepo import git

pytestmark = pytest.mark.ansible

WEB = Choice("playbooks/work.yml", tags=("web",), concurrent_limit=2)
CONFIG = "[defaults]\ninventory = inventory/hosts.yml\n"


@contextmanager
def door_of(work: Workspace, config: Path, root: Path | None = None) -> Iterator[SourcesAuthoring]:
    """What the daemon's port has, of a daemon that runs: on its database, and with readings of its own."""
    settings = load_settings(config, state_dir=work.state)
    store = open_store(settings)
    with for_a_look(settings, root) as built:
        sources = {each.source.name: each.source for each in built}
        door = build_authoring(
            settings, built, store, InventoriesOfSources(settings), lambda name: sources[name].sync(), bool
        )
        try:
            yield door
        finally:
            door.close()
            store.close()


def composed(choice: Choice = WEB) -> Composed:
    found = compose(choice)
    assert isinstance(found, Composed)
    return found


def starts(work: Workspace) -> None:
    wait_for((work.state / "status" / "default" / "_source.yaml").exists, "the source to be read")


def test_a_manifest_that_is_pushed_runs_and_its_author_is_told(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=3)
    work.follow(write=True)
    work.write("ansible.cfg", CONFIG)
    first = work.push("Playbooks and inventory")
    with work.running():
        starts(work)
        with door_of(work, work.settings) as door:
            (offer,) = door.offers()
            assert (offer.writable, offer.playbooks) == (True, ("playbooks/work.yml",))
            planned = door.plan("default", composed().text)
            assert [[host.name for host in wave] for wave in planned.waves] == [["h1", "h2"], ["h3"]]
            assert (planned.refusal, planned.warnings, planned.revision) == (None, (), f"main@sha1:{first}")
            written = door.write("default", composed().text, "ada", "Patch the web servers")
        assert (written.name, written.path) == ("work-web", "jobs/work-web.yaml")
        assert written.commit is not None
        work.reached(written.commit.id, name="work-web")
    assert work.children("work-web") == {"h1": "success", "h2": "success", "h3": "success"}
    assert work.most_at_once() == 2
    run = work.status("work-web")["run"]
    assert (run["revision"], run["commit"]["author"], run["commit"]["subject"]) == (
        written.revision,
        "ada via reconciler <reconciler@localhost>",
        "Patch the web servers",
    )
    assert "ada via reconciler" in work.call("history", "work-web").out


def test_a_daemon_on_the_committed_state_of_a_path_runs_what_is_committed_there(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.write("ansible.cfg", CONFIG)
    git(work.root, "init", "--quiet", "--initial-branch=main")
    git(work.root, "add", "--all")
    git(work.root, "commit", "--quiet", "--message", "first")
    work.write("playbooks/work.yml", "- hosts: nobody\n")  # what is not committed does not run
    config = tmp_path / "reconciler.toml"
    config.write_text("[source]\nwrite = true\n")
    before = git(work.root, "status", "--porcelain")
    daemon = work.daemon()
    try:
        starts(work)
        with door_of(work, config, work.root) as door:
            written = door.write("default", composed().text, "ada", "")
        wait_for(lambda: work.status("work-web").get("phase") == "Succeeded", "the run")
    finally:
        stopped(daemon)
    assert written.commit is not None
    assert work.status("work-web")["run"]["revision"] == f"main@sha1:{written.commit.id}"
    assert git(work.root, "status", "--porcelain") == before


def test_a_daemon_on_a_directory_runs_what_is_written_there(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.write("ansible.cfg", CONFIG)
    config = tmp_path / "reconciler.toml"
    config.write_text("[source]\nwrite = true\n")
    daemon = work.daemon()
    try:
        starts(work)
        with door_of(work, config, work.root) as door:
            few = composed(replace(WEB, servers=("h1",))).text
            assert "minHosts is 2" in str(door.plan("default", few).refusal)
            written = door.write("default", composed().text, "ada", "")
        wait_for(lambda: work.status("work-web").get("phase") == "Succeeded", "the run")
    finally:
        stopped(daemon)
    assert (work.root / written.path).read_text() == composed().text
    assert work.call("validate", str(work.root / "jobs")).out == "1 manifest is valid\n"


def stopped(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    daemon.wait(timeout=60)
