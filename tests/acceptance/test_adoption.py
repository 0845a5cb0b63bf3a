"""A database that was lost, and a source that is added: nothing starts before somebody says what to make of it.
ansible-playbook is the stub of tests/stub_playbook.py, unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import databases
from tests.acceptance.daemons import Post, Site
from tests.acceptance.gitwork import GitWorkspace
from tests.acceptance.workspace import Done, wait_for

pytestmark = [pytest.mark.ansible, pytest.mark.slow]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with databases.new_database(databases.SQLITE, tmp_path) as url:
        site = Site(tmp_path, url)
        yield site
        site.clean_up()


@pytest.fixture
def post(site: Site) -> Post:
    return site.post("only")


def once(site: Site, post: Post) -> Done:
    return post.call("run", "--once", str(site.root))


def lose_the_database(site: Site) -> None:
    file = Path(site.url.partition(":///")[2])
    for part in file.parent.glob(f"{file.name}*"):
        part.unlink()


def document(folder: Path, source: str, name: str) -> dict[str, Any]:
    file = folder / "status" / source / f"{name}.yaml"
    found: dict[str, Any] = yaml.safe_load(file.read_text())["status"] if file.exists() else {}
    return found


def reasons(status: dict[str, Any], kind: str) -> list[str]:
    return [each["reason"] for each in status.get("conditions", ()) if each["type"] == kind]


@pytest.fixture
def lost(site: Site, post: Post) -> Post:
    """Two batches had run when the database was deleted; what they left in status files is there."""
    for name in ("patch", "reboot"):
        site.job(name, hosts=1)
    assert once(site, post).code == 0
    assert site.begun() == ["patch-1", "reboot-1"]
    lose_the_database(site)
    return post


def test_without_the_database_nothing_runs_and_everything_says_why(site: Site, lost: Post) -> None:
    planned = lost.call("plan", str(site.root))
    assert planned.out.count("StateLost") + planned.out.count("adopt default") >= 2, planned.out

    for _ in range(2):
        done = once(site, lost)
        assert done.code == 1, done.err
        assert "reconciler adopt default" in done.out + done.err
    assert site.begun() == ["patch-1", "reboot-1"]
    for name in ("patch", "reboot"):
        assert document(lost.state, "default", name)["phase"] == "Stalled"
        assert reasons(document(lost.state, "default", name), "Stalled") == ["StateLost"]
    assert reasons(document(lost.state, "default", "_source"), "Stalled") == ["StateLost"]
    assert "source default is held (StateLost)" in lost.call("status").out


def test_what_had_run_is_adopted_as_done_and_what_had_not_runs(site: Site, lost: Post) -> None:
    once(site, lost)

    assert lost.call("adopt", "default", "patch", "--as-done", "--reason", "its log says so").code == 0
    assert lost.call("adopt", "default", "--run").code == 0
    assert once(site, lost).code == 0

    assert site.begun() == ["patch-1", "reboot-1", "reboot-1"]
    assert reasons(document(lost.state, "default", "_source"), "Stalled") == []
    assert reasons(document(lost.state, "default", "_source"), "Ready") == ["Synced"]
    site.job("patch", hosts=1, extraVars={"again": 1})
    assert once(site, lost).code == 0
    assert site.begun().count("patch-1") == 2, "a change runs, as ever"
    told = lost.call("audit").out
    assert "names=patch as=done" in told
    assert "its log says so" in told


def test_a_daemon_goes_on_as_soon_as_it_is_adopted(site: Site, lost: Post) -> None:
    site.set(resync="1h")
    lost.start()
    wait_for(lambda: reasons(document(lost.state, "default", "reboot"), "Stalled"), "it to be held")
    code, page = lost.page("/readyz")
    assert (code, "source default: held, for there are status files" in page) == (503, True)

    assert lost.call("adopt", "default", "--run").code == 0

    wait_for(lambda: len(site.begun()) == 4, "both to run")
    wait_for(lambda: lost.page("/readyz")[0] == 200, "the daemon to be in order")
    assert lost.said("source_held")[0]["reason"] == "StateLost"


def test_a_state_directory_that_is_new_knows_nothing_to_be_lost(site: Site, lost: Post) -> None:
    elsewhere = site.post("elsewhere")

    assert once(site, elsewhere).code == 0

    assert site.begun() == ["patch-1", "patch-1", "reboot-1", "reboot-1"]


def test_a_repository_that_is_added_waits_to_be_adopted(tmp_path: Path) -> None:
    """With the real Ansible."""
    work = GitWorkspace(tmp_path, hosts=1)
    work.job()
    first = work.push()
    assert work.call("run", "--once").code == 0
    both = {name: {"url": f"file://{work.bare}", "branch": "main", "interval": "1h"} for name in ("default", "second")}
    work.follow_all(both)

    planned = work.call("plan", "second/work")
    assert "reconciler adopt second" in planned.out, planned.out
    with work.running():
        wait_for(lambda: reasons(document(work.state, "second", "work"), "Stalled"), "the second to be held")
        assert reasons(document(work.state, "second", "work"), "Stalled") == ["AwaitingAdoption"]
        work.reached(first)
        assert work.call("adopt", "second", "--run").code == 0
        wait_for(lambda: document(work.state, "second", "work").get("phase") == "Succeeded", "its run")
    assert work.recorded() == ["h1", "h1"]
    work.follow()
    assert work.call("run", "--once").code == 0
    work.follow_all(both)
    assert work.call("run", "--once").code == 0, "it was known before it was left out for a while"
