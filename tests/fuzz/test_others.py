"""What others have written: rules as git reads them, and documents of another version of ours in the database."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore, migrate
from reconciler.core.facts import Observed
from reconciler.core.ignore import IgnoreRules
from reconciler.core.report import report_source
from reconciler.ports import BatchesWanted
from tests.builders import JOB, NOON, OTHER_JOB, REVISION, manifest_record
from tests.core.test_status import make_desired, status_of
from tests.gitrepo import git

PATHS = ["/".join(parts) for depth in (1, 2, 3) for parts in product(["a", "b", "ab", "a*"], repeat=depth)]
PIECES = ("a", "b", "c", "*", "**/", "/**/", "/**", "/", "?", "[a-b]", "[!a]", "\\a", "\\*", "!", "#")
RULES = st.lists(
    # To git, `a**/b` is at times more than `a*/b`, against its own manual.
    st.lists(st.sampled_from(PIECES), max_size=5).map("".join).filter(lambda rule: not re.search(r"[^/]\*\*", rule)),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("repository")
    git(place, "init", "--quiet")
    return place


@settings(max_examples=60)
@given(rules=RULES)
def test_rules_mean_what_they_mean_to_git(repository: Path, rules: list[str]) -> None:
    ours = IgnoreRules.parse("\n".join(rules))
    assert [path for path in PATHS if ours.leaves_out_below(path)] == list(_ignored(repository, rules))


def _ignored(repository: Path, rules: list[str]) -> Iterator[str]:
    (repository / ".gitignore").write_text("\n".join(rules) + "\n", encoding="utf-8")
    done = subprocess.run(
        ["git", "-C", repository, "-c", "core.excludesFile=", "check-ignore", "--no-index", "--stdin", "-z"],
        input="\0".join([*PATHS, ""]),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    yield from (path for path in done.stdout.split("\0") if path)


# -- what another version has said -----------------------------------------------------------------------------------
def test_a_status_that_another_version_wrote_counts_as_none_until_it_is_written_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'reconciler.db'}"
    migrate.upgrade(url)
    store = SqlStore(url, SystemClock())
    records = (manifest_record(JOB), manifest_record(OTHER_JOB))
    store.save_manifests(records, ())
    status = status_of(make_desired(key=JOB), Observed())
    store.save_status(JOB, status)
    store.save_status(OTHER_JOB, status_of(make_desired(key=OTHER_JOB), Observed(), later=timedelta(minutes=1)))
    store.save_source_status(
        report_source("default", REVISION, None, records, [], [], None, NOON, empty=False, notes=())
    )
    engine = create_engine(url)
    with engine.begin() as connection:
        newer = "json_set(status, '$.status.mood', 'good')"
        for table in ("manifests", "batch_summaries"):
            connection.execute(text(f"UPDATE {table} SET status = {newer} WHERE name = :name"), {"name": JOB.name})
        connection.execute(text(f"UPDATE source_status SET status = {newer}"))
    engine.dispose()
    assert store.status(JOB) is None
    assert [known.metadata.name for known in store.statuses()] == [OTHER_JOB.name]
    assert store.source_statuses() == ()
    assert [len(list(store.metrics().statuses)), len(store.metrics().sources)] == [1, 0]
    assert [row.mark.key for row in store.batches(BatchesWanted(), None, 1)] == [OTHER_JOB], "and a page is full"
    store.save_status(JOB, status)
    assert store.status(JOB) == status
    store.close()
