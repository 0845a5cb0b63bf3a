"""A disk on which nothing can be written any more, and that has room again. ansible-playbook is the stub of
tests/stub_playbook.py; the disk is full for the daemon alone, by a limit on the size of its files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.acceptance.daemons import Post, Site
from tests.acceptance.workspace import wait_for

pytestmark = [pytest.mark.ansible, pytest.mark.slow]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with databases.new_database(databases.SQLITE, tmp_path) as url:
        site = Site(tmp_path, url)
        yield site
        site.clean_up()


def limit_files(post: Post, size: int) -> None:
    """Whatever would make a file longer than this fails; what it starts from now on inherits it."""
    _, hard = resource.prlimit(post.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(post.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_is_told_survived_and_made_up_for(site: Site) -> None:
    post = site.post("only")
    site.job("patch", hosts=1)
    post.start()
    post.waits_to_say("leading")
    wait_for(lambda: site.is_over("patch"), "the first run")

    limit_files(post, 0)
    site.job("later", hosts=1)
    wait_for(lambda: post.page("/readyz")[0] == 503, "it to be told")
    assert post.page("/healthz") == (200, "ok\n")
    assert post.page("/metrics")[0] == 200
    assert site.begun() == ["patch-1"]
    limit_files(post, resource.RLIM_INFINITY)

    wait_for(lambda: site.begun() == ["later-1", "patch-1"], "what had waited to run")
    wait_for(lambda: post.page("/readyz") == (200, "ready\n"), "it to be in order")
    wait_for((post.state / "status/default/later.yaml").exists, "the status file")
    assert post.lives()


def test_a_disk_that_is_nearly_full_is_told_and_nothing_else(site: Site) -> None:
    post = site.post("only")
    site.job("patch", hosts=1)
    post.start(RECONCILER_MIN_FREE_BYTES=str(1 << 60))
    post.waits_to_say("leading")
    wait_for(lambda: site.is_over("patch"), "the run")

    code, page = post.page("/readyz")
    assert (code, f"the disk with {post.state} is nearly full" in page) == (503, True)
    post.waits_to_say("disk_nearly_full")
    assert site.begun() == ["patch-1"]
