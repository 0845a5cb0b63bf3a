"""The manifests of a source over several syncs: who is accepted, rejected, held or removed."""

from __future__ import annotations

from typing import Any

import yaml

from reconciler.core.facts import CauseKind, ManifestRecord
from reconciler.engine.catalogue import Catalogue, Decision
from reconciler.ports import NewCause
from tests.fakes.clock import FakeClock
from tests.fakes.source import FakeSnapshot, FakeSource

BROKEN = "apiVersion: reconciler/v1\nkind: [BatchJob\n"


def manifest(name: str = "web", *, requested_at: str | None = None, **spec: Any) -> str:
    annotations = {} if requested_at is None else {"reconciler/requestedAt": requested_at}
    fields = {"playbook": "playbooks/patch.yml", "selector": {"tags": ["web"]}, **spec}
    metadata = {"name": name, "annotations": annotations}
    return yaml.safe_dump({"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": metadata, "spec": fields})


class Repository:
    """A source, its catalogue, and the records and causes that a store would keep between syncs."""

    def __init__(self, **jobs: str) -> None:
        self.source = FakeSource({f"jobs/{name}.yaml": text for name, text in jobs.items()})
        self.clock = FakeClock()
        self.records: dict[str, ManifestRecord] = {}
        self.causes: list[NewCause] = []
        self.restart()

    def restart(self) -> None:
        """The daemon forgets what it only had in memory."""
        self.catalogue = Catalogue("default", ["jobs/**/*.yaml"], max_limit=20)

    def sync(self) -> Decision:
        snapshot = self.source.sync()
        entries = self.catalogue.read(snapshot)
        decision = self.catalogue.decide(entries, self.records, snapshot.revision, self.clock.now())
        self.records |= {record.key.name: record for record in decision.changed}
        self.causes += decision.causes
        return decision

    def write(self, name: str, text: str) -> None:
        self.source.write(f"jobs/{name}.yaml", text)

    def remove(self, name: str) -> None:
        self.source.remove(f"jobs/{name}.yaml")

    @property
    def live(self) -> set[str]:
        return {name for name, record in self.records.items() if record.removed_at is None}

    @property
    def asked(self) -> list[tuple[str, CauseKind]]:
        return [(cause.key.name, cause.kind) for cause in self.causes]


class Counted:
    """A snapshot that counts what is read of it."""

    def __init__(self, snapshot: FakeSnapshot) -> None:
        self._snapshot = snapshot
        self.source, self.revision, self.root = snapshot.source, snapshot.revision, snapshot.root
        self.files, self.commit, self.notes = snapshot.files, snapshot.commit, snapshot.notes
        self.reads: list[str] = []

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self._snapshot.read(path)


def test_with_ten_thousand_manifests_a_commit_that_changes_one_costs_one_parse() -> None:
    source = FakeSource({f"jobs/job-{number}.yaml": manifest(f"job-{number}") for number in range(10_000)})
    catalogue = Catalogue("default", ["jobs/**/*.yaml"], max_limit=20)
    first = Counted(source.sync())
    assert len(catalogue.read(first)) == len(first.reads) == 10_000
    source.write("jobs/job-77.yaml", manifest("job-77", limit=7))
    second = Counted(source.sync())
    assert len(catalogue.read(second)) == 10_000
    assert second.reads == ["jobs/job-77.yaml"]


def test_a_new_manifest_is_generation_one_and_asks_for_a_run() -> None:
    repository = Repository(web=manifest("web"))
    decision = repository.sync()
    assert [(record.key.name, record.generation, record.path) for record in decision.changed] == [
        ("web", 1, "jobs/web.yaml")
    ]
    assert repository.asked == [("web", CauseKind.SPEC_CHANGED)]


def test_looking_again_at_an_unchanged_source_decides_nothing() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    again = repository.sync()
    repository.restart()
    after_restart = repository.sync()
    assert (again.changed, again.causes) == (after_restart.changed, after_restart.causes) == ((), ())


def test_files_that_no_pattern_matches_are_not_read() -> None:
    repository = Repository(web=manifest("web"))
    repository.source.write("playbooks/patch.yaml", "- hosts: all\n")
    repository.source.write("jobs/deep/down/db.yaml", manifest("db"))
    decision = repository.sync()
    assert decision.rejected == ()
    assert repository.live == {"web", "db"}


def test_one_bad_file_does_not_stop_the_rest() -> None:
    repository = Repository(a=manifest("a"), b=BROKEN, c=manifest("c"))
    decision = repository.sync()
    assert repository.live == {"a", "c"}
    assert [entry.path for entry in decision.rejected] == ["jobs/b.yaml"]


def test_a_path_that_no_database_takes_is_rejected_and_stops_nothing_else() -> None:
    repository = Repository(a=manifest("a"))
    repository.source.write(f"jobs/{'deep/' * 200}b.yaml", manifest("b"))
    decision = repository.sync()
    assert repository.live == {"a"}
    assert [entry.first.message for entry in decision.rejected] == ["its path has 1011 characters"]


def test_one_bad_document_does_not_stop_the_others_of_its_file() -> None:
    repository = Repository(many="---\n".join([manifest("a"), manifest("b", limit=0), manifest("c")]))
    decision = repository.sync()
    assert repository.live == {"a", "c"}
    assert [(entry.document, entry.name) for entry in decision.rejected] == [(2, "b")]


def test_a_manifest_that_turned_invalid_keeps_its_job_and_its_accepted_spec() -> None:
    repository = Repository(web=manifest("web", limit=3))
    repository.sync()
    repository.write("web", manifest("web", limit=0))
    decision = repository.sync()
    record = repository.records["web"]
    assert (record.spec.limit, record.generation, record.removed_at) == (3, 1, None)
    assert record.rejected is not None
    assert "spec.limit" in record.rejected.message
    assert decision.causes == ()

    repository.write("web", manifest("web", limit=3))
    repository.sync()
    assert repository.records["web"].rejected is None
    assert len(repository.causes) == 1, "mending it back is no change"


def test_a_file_that_is_no_yaml_any_more_removes_none_of_its_jobs() -> None:
    repository = Repository(both=manifest("a") + "---\n" + manifest("b"), other=manifest("other"))
    repository.sync()
    repository.write("both", BROKEN)
    repository.sync()
    assert repository.live == {"a", "b", "other"}
    assert all(repository.records[name].rejected for name in ("a", "b"))


def test_two_files_with_one_name_refuse_each_other_and_name_each_other() -> None:
    repository = Repository(one=manifest("web"), two=manifest("web"), other=manifest("db"))
    decision = repository.sync()
    assert repository.live == {"db"}
    said = {entry.path: entry.first.message for entry in decision.rejected}
    assert said.keys() == {"jobs/one.yaml", "jobs/two.yaml"}
    assert "jobs/two.yaml" in said["jobs/one.yaml"]
    assert "jobs/one.yaml" in said["jobs/two.yaml"]


def test_a_duplicate_leaves_the_job_that_was_there_as_it_was() -> None:
    repository = Repository(one=manifest("web", limit=3))
    repository.sync()
    repository.write("two", manifest("web", limit=9))
    repository.sync()
    record = repository.records["web"]
    assert (record.spec.limit, record.removed_at) == (3, None)
    assert record.rejected is not None


def test_a_manifest_that_is_gone_removes_its_job() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    repository.remove("web")
    decision = repository.sync()
    assert repository.live == {"db"}
    assert (decision.staying, decision.empty) == ((), False)


def test_a_source_that_is_empty_all_of_a_sudden_removes_nothing() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    repository.remove("web")
    repository.remove("db")
    decision = repository.sync()
    assert decision.empty
    assert set(decision.staying) == repository.live == {"web", "db"}
    assert decision.changed == ()


def test_a_rename_to_a_file_that_is_broken_holds_the_job_until_it_is_clear() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    repository.remove("web")
    repository.write("www", BROKEN)
    for _ in range(3):
        decision = repository.sync()
        assert decision.staying == ("web",)
        assert "web" in repository.live

    repository.write("www", manifest("web"))
    assert repository.sync().staying == ()
    assert repository.records["web"].path == "jobs/www.yaml"
    assert repository.records["web"].generation == 1
    assert len(repository.causes) == 2, "the same spec under another path runs nothing"


def test_a_manifest_moved_into_a_file_of_others_that_is_broken_then_is_held() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    repository.remove("web")
    repository.write("db", BROKEN)
    assert repository.sync().staying == ("web",)
    assert repository.live == {"web", "db"}

    repository.write("db", manifest("db"))
    repository.sync()
    assert repository.live == {"db"}


def test_a_held_job_is_removed_once_the_broken_file_turns_out_to_be_another() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    repository.remove("web")
    repository.write("www", BROKEN)
    repository.sync()
    repository.write("www", manifest("cache"))
    repository.sync()
    assert repository.live == {"db", "cache"}


def test_a_file_that_was_broken_all_along_does_not_hold_a_removal() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"), old=BROKEN)
    repository.sync()
    repository.remove("web")
    assert repository.sync().staying == ()
    assert repository.live == {"db"}


def test_after_a_restart_an_unclear_file_holds_rather_than_removes() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"), old=BROKEN)
    repository.sync()
    repository.remove("web")
    repository.restart()
    assert repository.sync().staying == ("web",)
    assert "web" in repository.live


def test_the_generation_counts_changes_of_the_spec_only() -> None:
    repository = Repository(web=manifest("web"))
    repository.sync()
    for text, generation in (
        (manifest("web") + "# a remark\n", 1),
        (manifest("web", limit=5), 1),  # the default, said out loud
        (manifest("web", limit=4), 2),
        (manifest("web", limit=4, requested_at="now"), 2),
        (manifest("web", limit=4, extraVars={"version": 2}), 3),
    ):
        repository.write("web", text)
        repository.sync()
        assert repository.records["web"].generation == generation


def test_a_steering_change_opens_nothing_and_a_work_change_does() -> None:
    repository = Repository(web=manifest("web"))
    repository.sync()
    repository.causes.clear()
    repository.write("web", manifest("web", limit=4, suspend=True, stopOnFailure=True))
    repository.sync()
    assert repository.records["web"].spec.suspend
    assert repository.causes == []
    repository.write("web", manifest("web", extraVars={"version": 2}))
    repository.sync()
    assert repository.asked == [("web", CauseKind.SPEC_CHANGED)]


def test_with_an_empty_run_on_only_a_request_asks_for_a_run() -> None:
    repository = Repository(web=manifest("web", runOn=[]))
    repository.sync()
    repository.write("web", manifest("web", runOn=[], extraVars={"version": 2}))
    repository.sync()
    assert repository.causes == []
    repository.write("web", manifest("web", runOn=[], extraVars={"version": 2}, requested_at="monday"))
    repository.sync()
    repository.sync()
    assert repository.asked == [("web", CauseKind.REQUESTED)]


def test_a_job_that_comes_back_goes_on_counting_generations() -> None:
    repository = Repository(web=manifest("web"), db=manifest("db"))
    repository.sync()
    repository.remove("web")
    repository.sync()
    repository.write("web", manifest("web", limit=4))
    repository.sync()
    record = repository.records["web"]
    assert (record.generation, record.removed_at) == (2, None)


def test_the_records_do_not_depend_on_when_a_file_was_read() -> None:
    repository = Repository(web=manifest("web"))
    repository.sync()
    first = repository.records["web"]
    repository.write("db", manifest("db"))
    repository.sync()
    assert repository.records["web"] == first
