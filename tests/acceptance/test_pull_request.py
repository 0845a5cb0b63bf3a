"""The life of a pull request: a manifest is committed, checked, and what merging it would run is told."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.workspace import PATIENCE, PLAYBOOK, Done, Workspace

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _kim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works here has an identity, and nothing else that this machine's git is set up with."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Kim")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "kim@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


class Repository(Workspace):
    """A source that is a git repository, or a `folder` of one: `top` is its root."""

    def __init__(self, place: Path, hosts: int = 3, folder: str = "") -> None:
        super().__init__(place, hosts)
        self.top = self.root
        if folder:
            self.root = self.top / folder
            self.root.mkdir(parents=True)
            for name in ("jobs", "playbooks", "inventory"):
                (self.top / name).rename(self.root / name)
        self.git("-c", "init.defaultBranch=main", "init", "--quiet")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.top), *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE
        )
        return done.stdout.rstrip("\n")

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "An edit")

    def branch(self) -> None:
        """What is there is main's; what is committed from now on is not."""
        self.commit()
        self.git("checkout", "--quiet", "-b", "topic")

    def plan(self, *arguments: str) -> Done:
        return self.call("plan", str(self.root), "--against", "main", *arguments)


def in_folder(folder: Path, *arguments: str) -> Done:
    """`reconciler …`, as it is called there."""
    command = [str(PROGRAMS / "reconciler"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    return Done(done.returncode, done.stdout, done.stderr)


# -- plan --against --------------------------------------------------------------------------------------------------
def test_what_merging_runs_is_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    here.job("work", limit=2)
    here.job("same")
    here.job("gone")
    here.branch()
    here.job("work", limit=2, extraVars={"package": "nginx"})
    (here.root / "jobs" / "gone.yaml").unlink()
    here.commit()
    here.job("same", limit=1)  # not committed

    done = here.plan("--detailed-exitcode", "-o", "json")

    assert done.code == 3
    told = json.loads(done.out)
    (job,) = told["jobs"]
    assert (job["name"], job["waves"], job["fields"]) == ("work", [["h1", "h2"], ["h3"]], ["extraVars"])
    assert [removed["name"] for removed in told["removed"]] == ["gone"]
    assert (told["rejected"], told["unchanged"]) == ([], 1)
    assert here.git("rev-parse", "main") in told["base"]
    assert here.git("rev-parse", "HEAD") in told["head"]
    assert not here.state.exists()
    assert here.git("status", "--porcelain") == " M jobs/same.yaml"


def test_what_others_merged_meanwhile_is_no_part_of_it(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    here.job("work")
    here.branch()
    here.job("mine")
    here.commit()
    here.git("checkout", "--quiet", "main")
    here.job("work", extraVars={"package": "nginx"})
    here.commit()
    here.git("checkout", "--quiet", "topic")

    told = json.loads(here.plan("-o", "json").out)

    assert [job["name"] for job in told["jobs"]] == ["mine"]
    assert told["unchanged"] == 1


def test_a_source_may_be_a_folder_of_its_repository(tmp_path: Path) -> None:
    here = Repository(tmp_path, folder="fleet/web")
    here.job("work", limit=2)
    here.branch()
    here.write("playbooks/work.yml", PLAYBOOK + "    - ansible.builtin.ping:\n")
    here.commit()

    done = here.plan()

    assert done.code == 0
    assert "UpToDate=False: its playbook changed; reconciler trigger work runs it" in done.out


def test_a_manifest_that_the_change_breaks_is_told_with_its_place(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    here.job("work")
    here.branch()
    here.job("work", limit=0)
    here.commit()

    done = here.plan("--detailed-exitcode")

    assert done.code == 2
    assert re.search(r"^jobs/work\.yaml:\d+:\d+: spec\.limit must be at least 1", done.err, re.MULTILINE)
    assert "the spec that was accepted before stays in force" in done.out


def test_what_can_not_be_compared_says_what_to_do(tmp_path: Path) -> None:
    here = Repository(tmp_path / "repository")
    here.job("work")
    here.commit()
    done = here.call("plan", str(here.root), "--against", "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "nowhere" in done.err
    assert "hint: " in done.err

    done = here.call("plan", str(here.root), "--against", "HEAD", "--working-tree")
    assert done.code == 2

    bare = Workspace(tmp_path / "directory", hosts=1)
    done = bare.call("plan", str(bare.root), "--against", "main")
    assert done.code == 2
    assert "git repository" in done.err


# -- validate --------------------------------------------------------------------------------------------------------
def test_github_shows_what_is_wrong_beside_its_line(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    here.write("playbooks/once.yml", "- hosts: all\n  tasks:\n    - ansible.builtin.ping:\n      run_once: true\n")
    here.job("once", playbook="playbooks/once.yml")
    here.write("jobs/50%,a:b.yaml", "apiVersion: reconciler/v1\nkind: BatchJob\nmetadata: {name: x}\nspec: {limt: 5}\n")

    done = in_folder(here.root, "validate", "-o", "github", str(here.root))

    assert done.code == 2
    *wrong, warned = done.out.splitlines()
    file = "jobs/50%25%2Ca%3Ab.yaml"
    told = (
        f"::error file={file},line=4,col=8,title=reconciler::spec.limt is no field of a BatchJob%0Ahint: Did you mean"
    )
    assert any(line.startswith(told) for line in wrong)
    assert warned.startswith("::warning file=jobs/once.yaml,line=1,col=1,title=reconciler::RunOncePerWave: ")
    assert all(line.startswith("::") for line in done.out.splitlines())

    (here.root / "jobs" / "50%,a:b.yaml").unlink()
    done = in_folder(here.root, "validate", "-o", "github", "jobs")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "1 manifest is valid"


# -- the hook --------------------------------------------------------------------------------------------------------
def test_the_hook_checks_what_a_commit_changes(tmp_path: Path) -> None:
    """As pre-commit would call it: at the root of the repository, with the staged files that match."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    here = Repository(tmp_path)
    for name in ("one", "two"):
        here.job(name)
    here.commit()

    def call_hook() -> Done:
        here.git("add", "--all")
        staged = here.git("diff", "--staged", "--name-only", "--diff-filter=ACMRTUXB").splitlines()
        files = [name for name in staged if re.search(hook["files"], name)]
        assert files
        return in_folder(here.root, *shlex.split(hook["entry"])[1:], *files)

    assert (hook["id"], shlex.split(hook["entry"])[0]) == ("reconciler-validate", "reconciler")
    here.job("one", limit=3)
    here.job("three")
    here.write("README.md", "no manifest")
    assert call_hook().code == 0

    here.job("three", limit=0)
    done = call_hook()
    assert done.code == 2
    assert done.err.startswith("jobs/three.yaml:")

    here.job("three", playbook="playbooks/nowhere.yml")
    assert call_hook().code == 2

    here.write("jobs/three.yaml", (here.root / "jobs" / "two.yaml").read_text())
    done = call_hook()
    assert done.code == 2
    assert "jobs/three.yaml:1:1: the name two is taken by jobs/two.yaml:1" in done.err


# -- the action ------------------------------------------------------------------------------------------------------
ACTION: Mapping[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: Sequence[Mapping[str, Any]] = ACTION["runs"]["steps"]


def the_step(name: str) -> Mapping[str, Any]:
    return next(step for step in STEPS if step.get("name") == name)


def test_no_text_of_an_input_reaches_a_shell() -> None:
    assert ACTION["runs"]["using"] == "composite"
    shells = [step for step in STEPS if "run" in step]
    assert [step["shell"] for step in shells] == ["bash"] * len(shells)
    assert [step["name"] for step in shells if "${{" in step["run"]] == []
    assert [step["uses"] for step in STEPS if "run" not in step] == ["actions/setup-python@v5"]
    assert set(ACTION["inputs"]) == {"path", "against", "python-version"}
    assert all(each["description"] for each in (*ACTION["inputs"].values(), *ACTION["outputs"].values()))


def test_what_the_action_installs_is_this_repository() -> None:
    """The step itself is not executed: it would fetch from a package index."""
    words = shlex.split(the_step("Install reconciler")["run"].replace("$GITHUB_ACTION_PATH", str(ROOT)))
    assert words[:4] == ["python", "-m", "pip", "install"]
    assert words[words.index("--constraint") + 1] == str(ROOT / "constraints.txt")
    assert words[-1] == str(ROOT)


class Workflow:
    """A job that uses the action in a workspace: steps run in the shell and with the environment that GitHub gives them."""

    def __init__(self, folder: Path, workspace: Path, **inputs: str) -> None:
        self.workspace = workspace
        self.inputs = {name: said.get("default", "") for name, said in ACTION["inputs"].items()} | inputs
        self.folder = folder / "runner"
        self.folder.mkdir()
        for name in ("summary", "output"):
            (self.folder / name).touch()

    def run(self, name: str) -> Done:
        step = the_step(name)
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        given = {
            variable: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: self.inputs[found[1]], value)
            for variable, value in step["env"].items()
        }
        assert not any("${{" in value for value in given.values())
        github = {
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.folder),
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.workspace,
            env={**os.environ, **github, **given, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text()

    @property
    def output(self) -> Mapping[str, str]:
        pairs = (line.partition("=") for line in (self.folder / "output").read_text().splitlines())
        return {name: value for name, _, value in pairs}


def test_the_action_annotates_a_pull_request_and_tells_what_would_run(tmp_path: Path) -> None:
    here = Repository(tmp_path / "upstream")
    here.job("work", limit=2)
    here.branch()
    here.job("work", limit=2, extraVars={"package": "nginx"})
    here.job("wrong", limit=0)
    here.commit()
    clone = tmp_path / "clone"
    here.git("clone", "--quiet", str(here.top), str(clone))
    workflow = Workflow(tmp_path, clone, against="origin/main")

    checked = workflow.run("Check the manifests")
    assert checked.code == 2
    assert checked.out.startswith("::error file=jobs/wrong.yaml,line=")

    told = workflow.run("Tell what would run")
    assert (told.code, told.out) == (2, "")  # a manifest is rejected
    assert "| work | 3 hosts in 2 waves | SpecChanged |" in workflow.summary
    assert "`jobs/wrong.yaml:" in workflow.summary
    assert Path(workflow.output["file"]).read_text() == workflow.summary
    assert ACTION["outputs"]["plan"]["value"] == "${{ steps.plan.outputs.file }}"
    assert the_step("Tell what would run")["id"] == "plan"


def test_an_input_is_a_word_whatever_is_in_it(tmp_path: Path) -> None:
    here = Repository(tmp_path / "upstream", folder="a fleet; touch owned")
    here.job("work")
    here.branch()
    here.job("work", limit=1)
    here.commit()
    workflow = Workflow(tmp_path, here.top, path=str(here.root.relative_to(here.top)), against="main")
    assert workflow.run("Check the manifests").code == 0
    assert workflow.run("Tell what would run").code == 0
    assert "only fields that steer changed (limit)" in workflow.summary
    assert not list(tmp_path.rglob("owned"))


def test_of_what_can_not_be_told_there_is_no_file(tmp_path: Path) -> None:
    here = Repository(tmp_path / "upstream")
    here.job("work")
    here.commit()
    workflow = Workflow(tmp_path, here.top, against="$(touch owned)")
    told = workflow.run("Tell what would run")
    assert (told.code, workflow.summary, workflow.output) == (2, "", {})
    assert "$(touch owned)" in told.err
    assert not (here.top / "owned").exists()


# -- new --commit ----------------------------------------------------------------------------------------------------
NEW = ("new", "patch", "--playbook", "playbooks/work.yml", "--tag", "web", "--commit")


def test_a_new_manifest_is_committed_alone(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    here.job("work")
    here.commit()
    here.write("staged.txt", "staged")
    here.git("add", "staged.txt")
    here.job("work", limit=1)
    here.write("lies-there.txt", "not for git")

    done = in_folder(here.root / "playbooks", *NEW)

    assert done.code == 0, done.err
    assert here.git("show", "--name-only", "--format=%an: %s").split("\n") == [
        "Kim: Add batch patch",
        "",
        "jobs/patch.yaml",
    ]
    assert here.git("rev-parse", "--short", "HEAD") in done.out
    assert "push it: pushed commits are picked up by the daemon" in done.out
    assert here.git("status", "--porcelain").splitlines() == [
        " M jobs/work.yaml",
        "A  staged.txt",
        "?? lies-there.txt",
    ]
    assert in_folder(here.root, "validate", "jobs").code == 0

    again = in_folder(here.root, *NEW)
    assert again.code == 2
    assert "already there" in again.err


def test_the_first_commit_may_be_a_manifest(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    assert in_folder(here.root, *NEW).code == 0
    assert here.git("ls-files") == "jobs/patch.yaml"


def test_it_may_be_for_another_source_or_have_another_name(tmp_path: Path) -> None:
    here = Repository(tmp_path, folder="fleet")
    here.commit()
    assert in_folder(tmp_path, *NEW, "--path", str(here.root)).code == 0
    assert in_folder(tmp_path, *NEW, "-f", str(here.root / "jobs" / "[p]*.yaml")).code == 0
    assert here.git("ls-files", "fleet/jobs").splitlines() == ["fleet/jobs/[p]*.yaml", "fleet/jobs/patch.yaml"]

    for wrong in (("--path", "nowhere"), ("--path", ".", "-f", "x.yaml")):
        done = in_folder(here.root, *NEW, *wrong)
        assert (done.code, "hint: " in done.err) == (2, True)
    assert here.git("status", "--porcelain") == ""


def test_where_git_refuses_nothing_is_left_of_it(tmp_path: Path) -> None:
    here = Repository(tmp_path)
    here.job("work")
    here.commit()
    here.write("staged.txt", "staged")
    here.git("add", "staged.txt")
    hook = here.top / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho 'no commits on fridays' >&2\nexit 1\n")
    hook.chmod(0o755)

    done = in_folder(here.root, *NEW)

    assert done.code == 2
    assert "git commit failed: no commits on fridays" in done.err
    assert "hint: " in done.err
    assert here.git("status", "--porcelain") == "A  staged.txt"
    assert not (here.root / "jobs" / "patch.yaml").exists()

    hook.unlink()
    here.write(".gitignore", "patch.yaml\n")
    done = in_folder(here.root, *NEW)
    assert (done.code, "git add failed" in done.err) == (2, True)
    assert not (here.root / "jobs" / "patch.yaml").exists()


def test_outside_of_a_repository_nothing_is_written(tmp_path: Path) -> None:
    bare = Workspace(tmp_path, hosts=1)
    done = in_folder(bare.root, *NEW, "--path", ".")
    assert done.code == 2
    assert "git repository" in done.err
    assert list((bare.root / "jobs").iterdir()) == []
