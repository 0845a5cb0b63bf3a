"""What `plan` tells people and programs, and a pull request. How Markdown is read is for a parser to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from reconciler import app as parts
from reconciler.cli import app
from reconciler.cli.markdown import LONGEST, MOST_ROWS, markdown
from reconciler.cli.previews import outlook_of_change
from tests.engine.pull_requests import PullRequest
from tests.engine.worlds import PLAYBOOK

Call = Callable[..., tuple[int, str]]
HOSTILE = "`` ` ``` | \\| @everyone <img src=x> </code> [a](https://b.example) \u202e\x1b[31m ~~~ # *b* ::error::"
"""All that Markdown, HTML, a terminal or GitHub would make something of."""


@pytest.fixture
def pull() -> PullRequest:
    """One job of each kind of change."""
    made = PullRequest()
    for name in ("gone", "playbook", "same", "steers", "wrong", "work"):
        made.write(name)
    made.write("playbook", runOn=[], playbook="playbooks/other.yml")
    made.source.write("playbooks/other.yml", PLAYBOOK)
    made.branch()
    made.source.write("playbooks/other.yml", PLAYBOOK + "  gather_facts: false\n")
    made.source.remove("jobs/gone.yaml")
    made.write("new", suspend=True)
    made.write("steers", limit=1)
    made.write("work", extraVars={"package": "nginx"})
    return made


@pytest.fixture
def call(pull: PullRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`reconciler plan --against main …`: its exit code, and what it wrote."""
    monkeypatch.setattr(parts, "build_change", lambda settings, place, against: pull.change())

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["plan", str(tmp_path), *arguments, "--against", "main"])
        return done.exit_code, done.stdout

    return call


def test_a_terminal_is_told_what_runs_and_why_the_rest_does_not(call: Call) -> None:
    code, said = call()
    assert code == 0
    assert said.splitlines() == [
        "new  Suspended: playbooks/patch.yml",
        "  because the manifest is new (SpecChanged)",
        "  nothing would run: it is suspended",
        "playbook  Converged: playbooks/other.yml",
        "  nothing would run: UpToDate=False: its playbook changed; reconciler trigger playbook runs it",
        "steers  Converged: playbooks/patch.yml",
        "  nothing would run: only fields that steer changed (limit)",
        "work  Progressing: playbooks/patch.yml",
        "  because the manifest changed: extraVars (SpecChanged)",
        "  wave 1: web-1, web-2",
        "  wave 2: web-3",
        "gone  Removed: jobs/gone.yaml is gone",
        "  its job is removed; a run in progress ends by onChange (StopAfterWave)",
        "2 batches are unchanged",
    ]


def test_the_exit_code_says_whether_something_would_run_or_is_wrong(pull: PullRequest, call: Call) -> None:
    assert call("--detailed-exitcode")[0] == 3
    assert call("steers", "--detailed-exitcode")[0] == 0
    pull.write("wrong", limit=0)
    assert call("--detailed-exitcode")[0] == 2


def test_of_one_batch(call: Call) -> None:
    assert call("default/work")[1].startswith("work  Progressing")
    assert call("same") == (0, "1 batch is unchanged\n")
    assert call("nobody") == (2, "")


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_programs_are_told_all_of_it(pull: PullRequest, call: Call, form: str) -> None:
    pull.write("wrong", limit=0)
    code, said = call("-o", form)
    assert code == 2
    told: dict[str, Any] = yaml.safe_load(said)
    assert set(told) == {"base", "head", "jobs", "removed", "rejected", "unchanged"}
    jobs = {job["name"]: job for job in told["jobs"]}
    assert jobs["work"]["waves"] == [["web-1", "web-2"], ["web-3"]]
    assert (jobs["work"]["runs"], jobs["work"]["fields"]) == (True, ["extraVars"])
    assert jobs["steers"]["whyNothing"] == "only fields that steer changed (limit)"
    (rejected,) = told["rejected"]
    assert (rejected["path"], rejected["name"], rejected["line"] > 1) == ("jobs/wrong.yaml", "wrong", True)
    assert told["unchanged"] == 1


# -- Markdown --------------------------------------------------------------------------------------------------------
def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def rows(tokens: Sequence[Token]) -> list[list[str]]:
    """The cells of the table."""
    found: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            found.append([])
        if before.type in ("th_open", "td_open"):
            found[-1].append(token.content)
    return found


def titles(tokens: Sequence[Token]) -> list[str]:
    return [token.content for before, token in pairwise(tokens) if before.type == "heading_open"]


def test_a_pull_request_is_told_what_runs_first(pull: PullRequest, call: Call) -> None:
    pull.write("wrong", limit=0)
    code, said = call("-o", "markdown")
    assert code == 2
    tokens = parsed(said)
    heading, *sections = titles(tokens)
    assert heading == "reconciler: 1 batch would run"
    assert sections == ["Rejected manifests", "work: 3 hosts in 2 waves", "new"]
    head, *batches = rows(tokens)
    assert head == ["Batch", "Runs", "Why"]
    assert batches[0] == ["work", "3 hosts in 2 waves", "SpecChanged"]
    assert ["steers", "nothing", "only fields that steer changed (limit)"] in batches
    assert [name for name, *_ in batches[1:]] == ["gone", "new", "playbook", "steers", "wrong"]
    assert "wave 2: `web-3`" in said
    assert "`jobs/wrong.yaml:" in said
    assert "1 batch is unchanged." in said


def test_text_of_others_stays_text_wherever_it_stands() -> None:
    pull = PullRequest(*(f"web-{number} {HOSTILE}".replace("\x1b", "") for number in range(3)))
    pull.write("other")
    pull.branch()
    pull.write("asked", requested_at=f"{HOSTILE}\n\n| a | b |\n```\n@everyone\n")
    pull.write("blocked", playbook="playbooks/`x` | @everyone <b>.yml")
    pull.source.write("jobs/`|@everyone.yaml", f'apiVersion: reconciler/v1\nkind: "@everyone {"`" * 5} | <b>"\n')

    said = markdown(outlook_of_change(pull.change()))

    tokens = parsed(said)
    assert {token.type for token in tokens} & {"html_block", "fence", "code_block", "blockquote_open"} == set()
    inline = [child for token in tokens if token.type == "inline" for child in token.children or ()]
    plain = "".join(child.content for child in inline if child.type != "code_inline")
    for sign in "@<[`|#~\x1b\u202e":
        assert sign not in plain, sign
    assert "link_open" not in {child.type for child in inline}
    assert any("@everyone" in child.content for child in inline if child.type == "code_inline")
    assert [len(row) for row in rows(tokens)] == [3, 3, 3]
    assert "\x1b" not in said


def test_long_waves_are_shortened() -> None:
    pull = PullRequest(*(f"web-{number}" for number in range(1, 61)))
    pull.write("other")
    pull.branch()
    pull.write("wide", limit=20)
    pull.write("long", limit=1)

    said = markdown(outlook_of_change(pull.change()))

    assert (
        "wave 3: `web-41, web-42, web-43, web-44, web-45, web-46, web-47, web-48, web-49, web-50` and 10 more" in said
    )
    assert "and 50 more waves" in said
    assert "wave 11" not in said


def test_a_comment_is_never_too_long_for_github() -> None:
    pull = PullRequest(*(f"web-{number}.{'long' * 20}.example" for number in range(100)))
    pull.write("other")
    pull.branch()
    for number in range(MOST_ROWS + 7):
        pull.write(f"job-{number:03}", limit=1)

    said = markdown(outlook_of_change(pull.change()))

    assert len(said) <= LONGEST + 200
    assert "And 7 more batches." in said
    assert "more sections are left out" in said
    assert len(rows(parsed(said))) == MOST_ROWS + 1


def test_where_nothing_changes_that_is_said() -> None:
    pull = PullRequest()
    pull.write()
    pull.branch()
    pull.source.write("README.md", "news")
    said = markdown(outlook_of_change(pull.change()))
    assert said.startswith("## reconciler: no batch would run\n")
    assert said.endswith("\n1 batch is unchanged.\n")
