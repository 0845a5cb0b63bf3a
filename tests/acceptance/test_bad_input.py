"""Whatever is wrong in a source is told with its place and its remedy, and harms no other job."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.workspace import PATIENCE, Done, Workspace

pytestmark = pytest.mark.ansible

HEAD = """\
apiVersion: reconciler/v1
kind: BatchJob
metadata:
  name: {name}
spec:
  playbook: playbooks/work.yml
  inventory: inventory/hosts.yml
  selector: {selector}
"""
"""Eight lines: what is appended to the spec, two spaces in, begins on line 9."""


def manifest(name: str, rest: str = "", selector: str = "{all: true}") -> bytes:
    return (HEAD.format(name=name, selector=selector) + rest).encode()


# -- what is no valid manifest -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Mistake:
    """`place`: line and column. `named`: its name can be read, so that there is a job to hang the mistake on."""

    file: str
    content: bytes
    place: str
    message: str
    hint: str
    named: bool = True

    @property
    def path(self) -> str:
        return f"jobs/{self.file}.yaml"


MISTAKES = [
    Mistake("prose", b"Dear team,\nplease: patch: the servers\n", "2:7", "a ':' stands where no key can be", "quotes", named=False),
    Mistake("bracket", manifest("bracket", "  extraVars: {a: [1\n"), "10:1", "a '[' is not closed", "']'", named=False),
    Mistake("tab", manifest("tab", "\tlimit: 5\n"), "9:1", "a tab is used to indent", "spaces", named=False),
    Mistake("twice", manifest("twice", "  limit: 3\n  limit: 4\n"), "10:3", '"limit" is given twice', "line 9"),
    Mistake("alias", manifest("alias", "  extraVars: {a: *b}\n"), "9:18", "an alias (*) is not allowed", "Write the value out"),
    Mistake("bomb", manifest("bomb", "  extraVars: {a: &a [x, x], b: &b [*a, *a], c: [*b, *b]}\n"), "9:18", "an anchor (&) is not allowed", "Write the value out"),
    Mistake("large", manifest("large", f"# {'x' * 10_000_000}\n"), "1:1", "the file has 10,000,", "Is this a manifest?", named=False),
    Mistake("deep", manifest("deep", f"  extraVars: {{a: {'[' * 5000}{']' * 5000}}}\n"), "9:47", "nested more than 32 levels deep", "flatter", named=False),
    Mistake("unknown", manifest("unknown", "  limt: 3\n"), "9:3", "spec.limt is no field of a BatchJob", "Did you mean limit?"),
    Mistake("type", manifest("type", "  extraVars: [a]\n"), "9:14", "spec.extraVars must be a mapping, not a list", "Indent"),
    Mistake("limit-0", manifest("limit-0", "  limit: 0\n"), "9:10", "spec.limit must be at least 1, not 0", "1 to 20"),
    Mistake("limit-21", manifest("limit-21", "  limit: 21\n"), "9:10", "spec.limit must be at most 20, not 21", "1 to 20"),
    Mistake("limit-text", manifest("limit-text", '  limit: "3"\n'), "9:10", 'spec.limit must be a whole number, not the text "3"', "Write 3 without quotes."),
    Mistake("limit-on", manifest("limit-on", "  limit: on\n"), "9:10", 'spec.limit must be a whole number, not the text "on"', "Example: 5"),
    Mistake("selects-nothing", manifest("selects-nothing", selector="{}"), "8:13", "spec.selector selects nothing", "every host is `all: true`"),
    Mistake("playbook-up", manifest("playbook-up").replace(b"playbooks/work", b"../work"), "6:13", "spec.playbook leaves the repository with '..'", "without '..'"),
    Mistake("name", manifest("../../etc/passwd"), "4:9", "metadata.name is a name and not a path", "etc-passwd", named=False),
    Mistake("variable", manifest("variable", "  extraVars: {ansible_user: root}\n"), "9:15", "spec.extraVars.ansible_user begins with 'ansible_'", "inventory"),
    Mistake("binary", b"\x7fELF\x02\x01\x01\x00\x00\x00", "1:8", "the file is binary", "YAML text", named=False),
    Mistake("latin", manifest("latin") + "  extraVars: {city: Zürich}\n".encode("latin-1"), "9:22", "byte 0xfc is not UTF-8", "UTF-8", named=False),
    Mistake("nothing", b"", "1:1", "the file has no document", "remove the file", named=False),
]  # fmt: skip

TWINS = ("jobs/twin-a.yaml", "jobs/twin-b.yaml")


@dataclass(frozen=True)
class Rejections:
    """All mistakes at once, beside a good job: what each command said of them."""

    work: Workspace
    validated: Done
    ran: Done
    sources: Done


@pytest.fixture(scope="module")
def rejections(tmp_path_factory: pytest.TempPathFactory) -> Rejections:
    work = Workspace(tmp_path_factory.mktemp("rejected"), hosts=1)
    work.job("good")
    for mistake in MISTAKES:
        (work.root / mistake.path).write_bytes(mistake.content)
    for path in TWINS:
        (work.root / path).write_bytes(manifest("twin"))
    outside = work.root.parent / "outside.yaml"
    outside.write_bytes(manifest("outside"))
    (work.root / "jobs" / "link.yaml").symlink_to(outside)
    validated = work.call("validate", str(work.root / "jobs"))
    return Rejections(work, validated, work.once(), work.call("sources"))


def test_a_good_job_beside_all_of_them_runs_and_the_exit_code_says_that_some_were_rejected(
    rejections: Rejections,
) -> None:
    assert rejections.work.status("good")["phase"] == "Succeeded"
    assert rejections.work.recorded("end") == ["h1"]
    assert rejections.ran.code == 2
    assert rejections.validated.code == 2
    assert rejections.work.source()["manifests"]["accepted"] == 1
    assert "Traceback" not in rejections.ran.err + rejections.validated.err


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.file for mistake in MISTAKES])
def test_each_mistake_has_its_place_and_its_remedy(rejections: Rejections, mistake: Mistake) -> None:
    work = rejections.work
    alone = work.call("validate", str(work.root / mistake.path))
    assert alone.code == 2
    for said, where in (
        (alone.err, f"{work.root}/{mistake.path}"),
        (rejections.validated.err, f"{work.root}/{mistake.path}"),
        (rejections.ran.err, mistake.path),
        (rejections.sources.out, f"  {mistake.path}"),
    ):
        message, hint = told(said, f"{where}:{mistake.place}: ")
        assert mistake.message in message
        assert mistake.hint in hint
    entry = next(each for each in work.source()["rejected"] if each["path"] == mistake.path)
    assert f"{entry['line']}:{entry['column']}" == mistake.place
    assert mistake.message in entry["message"]
    assert mistake.hint in entry["hint"]


@pytest.mark.parametrize("name", [mistake.file for mistake in MISTAKES if mistake.named])
def test_a_manifest_that_was_never_valid_is_a_job_in_phase_invalid(rejections: Rejections, name: str) -> None:
    mistake = next(mistake for mistake in MISTAKES if mistake.file == name)
    work = rejections.work
    assert work.status(name)["phase"] == "Invalid"
    assert work.status(name)["message"].startswith(f"{mistake.path}:{mistake.place}: {mistake.message}")
    conditions = {each["type"]: (each["status"], each["reason"]) for each in work.status(name)["conditions"]}
    assert conditions == {
        "Ready": ("False", "ManifestInvalid"),
        "Stalled": ("True", "ManifestInvalid"),
        "Accepted": ("False", "ManifestInvalid"),
    }


def test_two_manifests_of_one_name_refuse_each_other_and_each_names_the_other(rejections: Rejections) -> None:
    for own, other in (TWINS, TWINS[::-1]):
        message, hint = told(rejections.ran.err, f"{own}:1:1: ")
        assert "the name twin" in message
        assert other in message
        assert "rename" in hint
    message, _ = told(rejections.validated.err, f"{rejections.work.root}/{TWINS[1]}:1:1: ")
    assert f"{rejections.work.root}/{TWINS[0]}" in message
    assert rejections.work.status("twin")["phase"] == "Invalid"


def test_a_manifest_behind_a_link_that_leaves_the_source_is_told_and_not_taken(rejections: Rejections) -> None:
    message, hint = told(rejections.ran.err, "jobs/link.yaml:1:1: ")
    assert "leaves the source by a symbolic link" in message
    assert hint
    assert rejections.work.status("outside") == {}


def told(said: str, begin: str) -> tuple[str, str]:
    """The one message that begins like this, and the hint on the line below it."""
    lines = said.splitlines()
    (number,) = (number for number, line in enumerate(lines) if line.startswith(begin))
    hint = lines[number + 1].strip()
    assert hint.startswith("hint: ")
    return lines[number].removeprefix(begin), hint.removeprefix("hint: ")


# -- what is valid and can't be done -----------------------------------------------------------------------------------
STALLED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "unknown-host": ({"selector": {"hosts": ["h1", "h9"]}}, "UnknownHost", "'h9'", "lists the hosts"),
    "no-host": ({"selector": {"tags": ["nobody"]}}, "NoHostMatched", "selector.tags", "'nobody'"),
    "too-few": ({"minHosts": 2}, "TooFewHosts", "matches 1 host, minHosts is 2", "widen spec.selector"),
    "too-few-by-default": ({"minHosts": None}, "TooFewHosts", "matches 1 host, minHosts is 2", "lower spec.minHosts"),
    "missing": ({"playbook": "playbooks/none.yml"}, "PathMissing", "playbooks/none.yml", "relative to the root"),
    "link-out": ({"playbook": "playbooks/link.yml"}, "PathOutsideSource", "playbooks/link.yml leaves", "in the source"),
    "link-folder": ({"playbook": "linked/p.yml"}, "PathOutsideSource", "the symbolic link linked", "in the source"),
    "link-nowhere": ({"playbook": "playbooks/dangling.yml"}, "PathMissing", "playbooks/dangling.yml", "relative to"),
    "imports-out": ({"playbook": "playbooks/imports.yml"}, "PathOutsideSource", "../outside.yml", "in the source"),
    "not-yaml": ({"playbook": "playbooks/broken.yml"}, "PlaybookInvalid", "playbooks/broken.yml:3:1: ", "mend"),
    "no-plays": ({"playbook": "playbooks/mapping.yml"}, "PlaybookInvalid", "playbooks/mapping.yml", "- hosts:"),
    "inventory-missing": ({"inventory": "inventory/none.yml"}, "PathMissing", "inventory/none.yml", "relative to"),
    "inventory-out": ({"inventory": "inventory/link.yml"}, "PathOutsideSource", "inventory/link.yml", "in the source"),
    "inventory-part-out": ({"inventory": "mixed"}, "PathOutsideSource", "mixed/more.yml leaves", "in the source"),
    "vars-missing": ({"extraVarsFiles": ["vars/none.yml"]}, "PathMissing", "vars/none.yml", "relative to"),
    "vars-out": (
        {"extraVarsFiles": ["linked/p.yml"]},
        "PathOutsideSource",
        "the symbolic link linked",
        "in the source",
    ),
}
"""The spec, the reason, and a part of the message and of the hint."""

BROKEN = {
    "bad-attribute": ("playbooks/attribute.yml", "PlaybookBroken", "'taskz' is not a valid attribute"),
    "bad-module": ("playbooks/module.yml", "MissingCollection", "no_such_module"),
}
"""Only Ansible can tell: playbook, reason, and a part of its message."""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Done]:
    work = Workspace(tmp_path_factory.mktemp("stalled"), hosts=1)
    outside = work.root.parent / "outside"
    outside.mkdir()
    (outside / "p.yml").write_text("- hosts: all\n")
    (work.root / "linked").symlink_to(outside)
    (work.root / "playbooks" / "link.yml").symlink_to("../../outside/p.yml")
    (work.root / "playbooks" / "dangling.yml").symlink_to("none.yml")
    (work.root / "inventory" / "link.yml").symlink_to(outside / "p.yml")
    (work.root / "mixed").mkdir()
    (work.root / "mixed" / "hosts.yml").symlink_to("../inventory/hosts.yml")
    (work.root / "mixed" / "more.yml").symlink_to(outside / "p.yml")
    for name, text in (
        ("broken", "- hosts: all\n  tasks: [\n"),
        ("mapping", "hosts: all\n"),
        ("imports", "- import_playbook: ../../outside.yml\n"),
        ("attribute", "- hosts: all\n  gather_facts: false\n  taskz: []\n"),
        ("module", "- hosts: all\n  gather_facts: false\n  tasks:\n    - no_such_module: {}\n"),
    ):
        work.write(f"playbooks/{name}.yml", text)
    work.job("good")
    for name, (spec, *_) in STALLED.items():
        work.job(name, **{field: value for field, value in spec.items() if value is not None})
    work.write("jobs/too-few-by-default.yaml", manifest("too-few-by-default").decode())
    for name, (playbook, *_) in BROKEN.items():
        work.job(name, playbook=playbook)
    return work, work.once()


def test_a_good_job_beside_those_that_can_not_be_done_runs(refusals: tuple[Workspace, Done]) -> None:
    work, done = refusals
    assert work.status("good")["phase"] == "Succeeded"
    assert work.recorded("end") == ["h1"]
    assert done.code == 1, "all are valid"
    assert work.source()["rejected"] == []
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", STALLED)
def test_what_the_operator_must_change_stalls_its_job_and_runs_nothing(
    refusals: tuple[Workspace, Done], name: str
) -> None:
    work, _ = refusals
    _, reason, message, hint = STALLED[name]
    status = work.status(name)
    assert (status["phase"], status["run"]) == ("Stalled", None)
    stalled = work.condition("Stalled", name)
    assert stalled is not None
    assert stalled["reason"] == reason
    assert message in stalled["message"]
    assert hint in stalled["message"]
    assert re.match(r"(jobs|playbooks)/[\w-]+\.ya?ml:\d+(:\d+)?: ", stalled["message"])
    accepted = work.condition("Accepted", name)
    assert accepted is not None
    assert accepted["status"] == "True"


@pytest.mark.parametrize("name", BROKEN)
def test_a_playbook_that_ansible_refuses_is_no_fault_of_a_host(refusals: tuple[Workspace, Done], name: str) -> None:
    work, _ = refusals
    playbook, reason, message = BROKEN[name]
    status = work.status(name)
    assert (status["phase"], work.children(name)) == ("Failed", {"h1": "aborted"})
    stalled = work.condition("Stalled", name)
    assert stalled is not None
    assert stalled["reason"] == reason
    assert message in stalled["message"]
    assert f"{playbook}:" in stalled["message"]
    assert stalled["message"].endswith(("(mend the playbook; the run's log has all of it)", "or ship it)"))


@pytest.mark.parametrize(
    ("name", "text", "reason", "message"),
    [
        ("hosts.yml", "all:\n  hosts: [\n", "InventoryUnreadable", "inventory/broken/hosts.yml:3:1: not YAML: "),
        ("hosts.ini", "[web\nh1\n", "InventoryUnreadable", "inventory/broken/hosts.ini"),
        ("hosts.ini", "[web]\n", "InventoryEmpty", "no host is in this inventory"),
    ],
    ids=["not-yaml", "not-ini", "no-hosts"],
)
def test_a_broken_inventory_holds_its_jobs_until_it_is_mended(
    tmp_path: Path, name: str, text: str, reason: str, message: str
) -> None:
    work = Workspace(tmp_path, hosts=1)
    (work.root / "inventory" / "broken").mkdir()
    work.write(f"inventory/broken/{name}", text)
    work.job("work", inventory=f"inventory/broken/{name}")
    work.job("good")

    assert work.once().code == 1

    ready = work.condition("Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert message in ready["message"]
    assert "ansible-inventory" in ready["message"], "the hint"
    assert work.status()["run"] is None
    assert work.status("good")["phase"] == "Succeeded"


# -- what may not be read ----------------------------------------------------------------------------------------------
def test_files_without_read_permission_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.write("playbooks/locked.yml", "- hosts: all\n")
    work.write("inventory/locked.yml", "all: {hosts: {h1: }}\n")
    work.write("secrets.yml", "a: 1\n")
    work.job("good")
    work.job("locked")
    work.job("playbook", playbook="playbooks/locked.yml")
    work.job("inventory", inventory="inventory/locked.yml")
    work.job("variables", extraVarsFiles=["secrets.yml"])
    paths = ["jobs/locked.yaml", "playbooks/locked.yml", "inventory/locked.yml", "secrets.yml"]
    with locked(*(work.root / path for path in paths)):
        validated = by_somebody(work, "validate", str(work.root / "jobs"))
        done = by_somebody(work, "run", "--once", str(work.root))

    assert validated.code == 2
    assert f"{work.root}/jobs/locked.yaml" in validated.err
    assert done.code == 2
    message, hint = told(done.err, "jobs/locked.yaml:1:1: ")
    assert "may not be read" in message
    assert "permission" in hint
    for job, path in zip(("playbook", "inventory", "variables"), paths[1:], strict=True):
        stalled = work.condition("Stalled", job)
        assert stalled is not None
        assert stalled["reason"] == "PathUnreadable"
        assert f"{path} may not be read" in stalled["message"]
    assert work.status("good")["phase"] == "Succeeded"


def test_a_folder_without_read_permission_removes_nothing(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.job("good")
    (work.root / "jobs" / "more").mkdir()
    work.write("jobs/more/other.yaml", manifest("other").decode() + "  minHosts: 1\n")
    assert work.once().code == 0
    with locked(work.root / "jobs" / "more"):
        done = by_somebody(work, "run", "--once", str(work.root))

    assert done.code == 1
    assert "jobs/more can't be read: Permission denied" in done.err
    assert "nothing is taken from half a source" in done.err
    assert work.source()["conditions"][0]["reason"] == "SourceUnavailable"
    assert [work.status(name)["phase"] for name in ("good", "other")] == ["Succeeded", "Succeeded"]


@contextmanager
def locked(*paths: Path) -> Iterator[None]:
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def by_somebody(work: Workspace, *arguments: str) -> Done:
    """By a user whom permissions stop. Root is stopped by none, unless these two capabilities are given up."""
    power = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root can read everything, and there is no setpriv to give that up")
        power = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*power, *work.command(*arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "COLUMNS": "200"}
    )
    return Done(done.returncode, done.stdout, done.stderr)
