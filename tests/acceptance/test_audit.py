"""What can be asked about later, and that what is forgotten in the end does not happen again. ansible-playbook is the stub
of tests/stub_playbook.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.acceptance.daemons import Post, Site
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


def test_who_asked_for_what_is_told_with_what_came_of_it(site: Site, post: Post) -> None:
    site.job("patch", hosts=1)
    site.job("reboot", hosts=1)
    assert once(site, post).code == 0
    assert post.call("trigger", "patch", "--reason", "the fix for CVE-1").code == 0
    waiting = post.call("audit", "patch").out
    assert "not answered yet" in waiting
    assert once(site, post).code == 0

    told = json.loads(post.call("audit", "patch", "--since", "1h", "-o", "json").out)
    assert [(each["what"], each["why"], each["result"]) for each in told] == [
        ("trigger", "the fix for CVE-1", "accepted")
    ]
    assert told[0]["answered"] >= told[0]["when"]
    assert json.loads(post.call("audit", "reboot", "-o", "json").out) == []
    touched = json.loads(post.call("history", "--host", "patch-1", "--since", "7d", "-o", "json").out)
    assert [(each["batch"], each["status"]) for each in touched] == [("default/patch", "success")] * 2
    assert "the fix for CVE-1" in post.call("history", "patch", "--since", "7d").out


def test_what_is_older_than_audits_go_is_forgotten_and_does_not_run_again(site: Site, post: Post) -> None:
    for number in range(2):
        site.job("patch", hosts=1, extraVars={"number": number})
        assert once(site, post).code == 0
    assert post.call("trigger", "patch").code == 0
    assert once(site, post).code == 0
    assert site.begun() == ["patch-1"] * 3

    site.settings.write_text(f'{site.settings.read_text()}\n[audit]\nkeep = "1s"\n')
    assert once(site, post).code == 0

    (left,) = json.loads(post.call("history", "patch", "-o", "json").out)
    assert left["cause"] == "Requested"
    assert json.loads(post.call("audit", "-o", "json").out) == []
    assert once(site, post).code == 0
    assert site.begun() == ["patch-1"] * 3
    site.job("patch", hosts=1, extraVars={"number": 2})
    assert once(site, post).code == 0
    assert site.begun() == ["patch-1"] * 4


def test_a_daemon_forgets_too(site: Site, post: Post) -> None:
    for number in range(2):
        site.job("patch", hosts=1, extraVars={"number": number})
        assert once(site, post).code == 0

    post.start(RECONCILER_AUDIT__KEEP="1s")

    def runs() -> int:
        return len(json.loads(post.call("history", "patch", "-o", "json").out))

    wait_for(lambda: runs() == 1, "the older run to go")
    assert site.begun() == ["patch-1", "patch-1"]
