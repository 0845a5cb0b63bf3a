"""Commit, and it runs; and every result names its commit."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from random import Random

import psutil
import pytest
import yaml

from tests.acceptance.gitwork import GitWorkspace
from tests.acceptance.workspace import wait_for
from tests.gitrepo import git

pytestmark = pytest.mark.ansible


def test_a_push_runs_and_every_result_names_its_commit(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=2)
    work.job()
    first = work.push("Patch the web servers")
    with work.running():
        work.reached(first)
        work.job(extraVars={"again": 1})
        second = work.push("Patch them again")
        work.reached(second)
    status = work.status()
    assert status["revision"] == f"main@sha1:{second}"
    for said in (status["commit"], status["run"]["commit"], status["history"][0]["commit"]):
        assert (said["id"], said["author"], said["subject"]) == (
            second,
            "Ada Lovelace <ada@example.org>",
            "Patch them again",
        )
    assert status["history"][1]["commit"]["subject"] == "Patch the web servers"
    assert work.source()["commit"]["id"] == second
    rows = work.rows("select revision, commit_author, commit_subject, host from jobs order by id")
    assert rows == [
        (f"main@sha1:{commit}", "Ada Lovelace <ada@example.org>", subject, host)
        for commit, subject in ((first, "Patch the web servers"), (second, "Patch them again"))
        for host in (None, "h1", "h2")
    ]
    told = work.call("history", "work").out
    assert re.search(r"AUTHOR +SUBJECT", told)
    assert re.search(rf"main@sha1:{second[:12]} +Ada Lovelace +Patch them again", told)
    assert json.loads(work.call("history", "work", "-o", "json").out)[1]["commit"]["id"] == first


def post(port: str, source: str, secret: str, body: bytes = b'{"ref": "refs/heads/other"}') -> int:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/hooks/git/{source}", body, {"X-Hub-Signature-256": f"sha256={signature}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_webhook_makes_it_immediate_and_needs_its_secret(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    secret = tmp_path / "secret"
    secret.write_text("hook-s3cret\n")
    work.follow(interval="1h", webhook_secret_file=secret)
    work.job()
    first = work.push()
    with work.running("--listen", "127.0.0.1:0"):
        work.reached(first)
        port = re.search(r"port=(\d+)", work.log.read_text())
        assert port is not None
        work.job(extraVars={"again": 1})
        second = work.push()
        assert post(port[1], "default", "wrong") == 401
        assert post(port[1], "other", "hook-s3cret") == 404
        assert work.status()["run"]["revision"].endswith(first)
        assert post(port[1], "default", "hook-s3cret") == 202
        work.reached(second)

        def metrics() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=30) as page:
                return str(page.read().decode())

        line = 'reconciler_source_sync_total{result="success",source="default"} 2.0'
        wait_for(lambda: line in metrics(), "the page to tell of the two readings")
    assert "hook-s3cret" not in work.log.read_text()


def test_a_local_commit_runs_and_what_is_not_committed_does_not(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.settings.write_text("")
    work.job()
    first = work.copy.commit("first")
    with work.running(str(work.root), "--no-http"):
        work.reached(first)
        work.job(extraVars={"again": 1})
        wait_for((work.state / "status/default/_source.yaml").exists, "the source's status")
        assert work.status()["run"]["revision"].endswith(first)
        second = work.copy.commit("second")
        work.reached(second)
        git(work.root, "checkout", "--quiet", "-b", "other", first)
        wait_for(lambda: work.status()["revision"] == f"other@sha1:{first}", "the other branch")
    work.job(extraVars={"again": 2})
    planned = work.call("plan", str(work.root))
    assert "1 uncommitted file" in planned.err
    assert "generation 4" not in planned.out
    once = work.call("run", "--once", "--working-tree", str(work.root))
    assert once.code == 0, once.err
    assert work.status()["revision"].startswith("dir@sha256:")


VERSION = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Version
      ansible.builtin.shell: echo "{{ inventory_hostname }} %s" >> {{ record }}.versions; until test -e {{ record }}.go; do sleep 0.05; done
"""


def old_hosts(work: GitWorkspace, policy: str) -> list[str]:
    return work.names if policy == "Finish" else ["h1"]


@pytest.mark.parametrize("policy", ["Finish", "StopAfterWave", "Cancel"])
def test_a_playbook_changed_by_a_later_commit_follows_on_change(tmp_path: Path, policy: str) -> None:
    work = GitWorkspace(tmp_path, hosts=10)
    versions, go = Path(f"{work.record}.versions"), Path(f"{work.record}.go")
    work.write("playbooks/work.yml", VERSION % "one")
    work.job(limit=1, onChange=policy, runOn=["spec", "playbook"])
    first = work.push("one")

    def seen() -> list[list[str]]:
        return [line.split() for line in versions.read_text().splitlines()] if versions.exists() else []

    with work.running():
        wait_for(seen, "the first wave")
        work.write("playbooks/work.yml", VERSION % "two")
        second = work.push("two")
        wait_for(lambda: work.status()["revision"].endswith(second), "the second commit")
        if policy != "Cancel":
            go.touch()
        else:
            wait_for(lambda: any(version == "two" for _, version in seen()), "the new run")
            go.touch()
        for host in old_hosts(work, policy):
            wait_for(lambda: [host, "one"] in seen(), f"{host} with the first file")  # noqa: B023 - waited for at once
        for host in work.names:
            wait_for(lambda: [host, "two"] in seen(), f"{host} with the second file")  # noqa: B023
        work.reached(second)

    old = [host for host, version in seen() if version == "one"]
    new = [host for host, version in seen() if version == "two"]
    assert old == old_hosts(work, policy)
    assert new == work.names
    history = work.status()["history"]
    assert [past["revision"].rpartition(":")[2] for past in history] == [second, first]
    assert history[0]["cause"] == "PlaybookChanged"
    assert history[1]["status"] == {"Finish": "success", "StopAfterWave": "cancelled", "Cancel": "cancelled"}[policy]
    children = work.rows(
        "select host, status, reason from jobs where parent_job_id = (select min(id) from jobs) order by id"
    )
    expected = {
        "Finish": [(host, "success", None) for host in work.names],
        "StopAfterWave": [("h1", "success", None), *((host, "skipped", "Superseded") for host in work.names[1:])],
        "Cancel": [("h1", "cancelled", "Superseded"), *((host, "skipped", "Superseded") for host in work.names[1:])],
    }
    assert children == expected[policy]


def test_a_fix_does_not_wait_for_ever_behind_a_hung_run(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=2)
    work.write("playbooks/work.yml", "- hosts: all\n  gather_facts: false\n  tasks: [shell: sleep 3600]\n")
    work.job(limit=1, timeouts={"task": "5s"})
    work.push("hangs")
    with work.running():
        wait_for(lambda: work.status().get("phase") == "Running", "the hung run")
        work.write("playbooks/work.yml", "- hosts: all\n  gather_facts: false\n  tasks: [shell: 'true']\n")
        work.reached(work.push("the fix"))


def test_history_that_is_rewritten_leaves_a_run_alone(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=2)
    go = Path(f"{work.record}.go")
    work.write("playbooks/work.yml", VERSION % "one")
    work.job(limit=1, onChange="Finish")
    work.copy.commit("base")
    first = work.push("to be lost")
    with work.running():
        wait_for(lambda: work.status().get("phase") == "Running", "the run")
        git(work.root, "reset", "--quiet", "--hard", "HEAD~1")
        other = work.copy.commit("instead")
        work.copy.push("--force")
        wait_for(lambda: "rewritten" in work.source_condition("Ready")["message"], "the notice")  # type: ignore[index]
        git(work.bare, "gc", "--quiet", "--prune=now")
        go.touch()
        wait_for(lambda: work.status()["phase"] == "Succeeded", "the end")
    assert work.status()["run"]["revision"].endswith(first)
    assert work.status()["revision"].endswith(other)
    assert len(work.status()["children"]) == 2


def test_a_branch_without_manifests_is_held(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.job()
    first = work.push()
    with work.running():
        work.reached(first)
        (work.root / "jobs/work.yaml").unlink()
        work.push("all gone")
        wait_for(lambda: work.source_condition("Ready")["reason"] == "SourceEmpty", "the hold")  # type: ignore[index]
        assert work.status()["phase"] == "Succeeded"
        work.job("other")
        work.reached(work.push("another"), name="other")
        wait_for(lambda: work.status()["phase"] == "Removed", "the removal")


def test_three_sources_of_which_one_is_broken(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.job()
    commit = work.push()
    work.follow_all(
        {
            "default": {"url": f"file://{work.bare}", "interval": "1s"},
            "broken": {"url": f"file://{tmp_path}/nowhere.git", "interval": "1s"},
            "second": {"url": str(work.bare), "interval": "1s", "branch": "main"},
        }
    )
    with work.running("--listen", "127.0.0.1:0"):
        work.reached(commit)
        wait_for((tmp_path / "state/status/second/work.yaml").exists, "the second source")
        wait_for(
            lambda: (
                yaml.safe_load((tmp_path / "state/status/second/work.yaml").read_text())["status"]["phase"]
                == "Succeeded"
            ),
            "its run",
        )
        port = re.search(r"port=(\d+)", work.log.read_text())
        assert port is not None
        with pytest.raises(urllib.error.HTTPError) as unready:
            urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/readyz", timeout=30)
        assert "source broken:" in unready.value.read().decode()
    listed = work.call("sources").out
    assert "broken" in listed
    assert "SourceAuthFailed" in listed
    assert work.call("history", "second/work").code == 0
    assert work.call("history", "work").code == 0
    planned = work.call("plan")
    assert planned.code == 4, "of one source nobody can tell"
    assert "the source broken can't be read" in planned.err
    assert work.call("plan", "second/work").code == 0
    checked = work.call("doctor")
    assert checked.code == 1
    assert re.search(r"problem +source broken", checked.out)
    assert re.search(rf"ok +source second: {work.bare} is read, at main@sha1:{commit}", checked.out)


def test_several_sources_have_the_same_name(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.job()
    work.push()
    work.follow_all({name: {"url": str(work.bare)} for name in ("one", "two")})
    assert work.call("run", "--once").code == 0
    listed = work.call("status").out
    assert "one/work " in listed
    assert "two/work " in listed
    asked = work.call("status", "work")
    assert (asked.code, "one/work, two/work" in asked.err) == (2, True)
    assert work.call("status", "two/work").code == 0


def test_who_names_a_path_and_sources_is_asked_which(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    done = work.call("run", "--once", str(work.root))
    assert done.code == 2
    assert "which is meant" in done.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "--upload-pack=touch /tmp/x"}, "option"),
        ({"url": "ext::sh -c true"}, "runs programs"),
        ({"branch": "--upload-pack=x"}, "option"),
        ({"tag": "x", "branch": "y"}, "which is to be followed"),
        ({"path": "../../etc"}, "leaves the repository"),
        ({"verify": "ssh"}, "allowed_signers_file"),
        ({"status": {"branch": "main"}, "branch": "main"}, "would be read as manifests"),
        ({"webhook_secret_file": "/nowhere/secret"}, "can't be read"),
        ({"interval": "0s"}, "not a duration"),
    ],
)
def test_settings_that_can_not_be_meant_say_so(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.push()
    work.follow_all({"default": {"url": str(work.bare), **settings}})
    done = work.call("run", "--once")
    assert (done.code, said in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "https://127.0.0.1:1/x.git", "token_file": "/nowhere/token"}, "/nowhere/token, which is not there"),
        ({"url": "ssh://127.0.0.1:1/x.git", "ssh_key_file": "/nowhere/key"}, "/nowhere/key, which is not there"),
        ({"url": "/nowhere/at/all"}, "no git repository"),
        ({"branch": "other"}, "has no branch other"),
        ({"path": "ansible"}, "has no folder ansible"),
    ],
)
def test_what_keeps_one_source_from_being_read_is_told_of_it(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.push()
    work.follow_all({"default": {"url": str(work.bare), **settings}})
    done = work.call("run", "--once")
    assert (done.code, said in done.err) == (1, True), done.err
    ready = work.source_condition("Ready")
    assert ready is not None
    assert said in ready["message"]
    assert "Traceback" not in done.err


def test_a_file_url_where_it_is_not_allowed(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.follow_all({"default": {"url": f"file://{work.bare}"}}, '[git]\nprotocols = ["https", "ssh"]\n\n')
    done = work.call("run", "--once")
    assert (done.code, "git.protocols does not allow" in done.err) == (2, True), done.err


def sign_with(work: GitWorkspace, folder: Path, name: str) -> Path:
    """A key of this name, which the person in the clone signs with from now on."""
    key = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for setting, value in {"gpg.format": "ssh", "user.signingKey": f"{key}.pub", "commit.gpgSign": "true"}.items():
        git(work.root, "config", setting, value)
    return key


def test_only_what_somebody_listed_has_signed_runs(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    good = sign_with(work, tmp_path, "ada")
    signers = tmp_path / "allowed_signers"
    public = " ".join(good.with_suffix(".pub").read_text().split()[:2])
    signers.write_text(f"ada@example.org {public}\n")
    work.follow(verify="ssh", allowed_signers_file=signers)
    work.job()
    first = work.push("signed")
    with work.running():
        work.reached(first)
        assert work.status()["run"]["commit"]["signer"] == "ada@example.org"
        verified = work.source_condition("SourceVerified")
        assert verified is not None
        assert (verified["status"], verified["reason"]) == ("True", "Verified")

        git(work.root, "config", "commit.gpgSign", "false")
        work.job(extraVars={"again": 1})
        work.push("not signed")

        def refused(text: str) -> bool:
            found = work.source_condition("SourceVerified")
            return found is not None and found["status"] == "False" and text in found["message"]

        wait_for(lambda: refused("not signed"), "the refusal of what is not signed")
        sign_with(work, tmp_path, "stranger")
        work.copy.commit("by a stranger")
        work.copy.push()
        wait_for(lambda: refused("SHA256:"), "the refusal of a stranger's")
        assert work.source()["observedRevision"].endswith(first)
        assert len(work.status()["history"]) == 1

        git(work.root, "config", "user.signingKey", f"{good}.pub")
        third = work.push("signed again")
        work.reached(third)
    assert len(work.status()["history"]) == 2


def test_the_status_can_be_read_from_git(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=2)
    work.follow(status={"branch": "reconciler-status", "interval": "1s"})
    work.break_host("h2")
    work.job()
    first = work.push("breaks on h2")
    with work.running():
        work.reached(first, "Failed")

        def shown() -> str:
            git(work.root, "fetch", "--quiet", "origin")
            branches = git(work.root, "branch", "--remotes")
            if "origin/reconciler-status" not in branches:
                return ""
            return git(work.root, "show", "origin/reconciler-status:default/work.yaml")

        wait_for(lambda: "phase: Failed" in shown(), "the failure on the branch")
        git(work.root, "merge-base", "origin/main", "HEAD")
        assert "[skip ci]" in git(work.root, "log", "-1", "--format=%s", "origin/reconciler-status")
        assert git(work.root, "rev-parse", "origin/main") == first
        work.bare.rename(tmp_path / "away.git")
        work.mend_host("h2")
        assert work.call("trigger", "work").code == 0
        wait_for(lambda: work.status()["phase"] == "Succeeded", "a run that no push delays")
        (tmp_path / "away.git").rename(work.bare)
        wait_for(lambda: "phase: Succeeded" in shown(), "the success on the branch")
    work.job(extraVars={"once": 1})
    second = work.push("once more")
    assert work.call("run", "--once").code == 0
    assert second in shown(), "what was said last is pushed before it ends"


PUSHES = 1_000


def test_a_thousand_pushes_while_runs_go_on_and_the_daemon_is_killed_again_and_again(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=2)
    work.follow(interval="1s")
    work.job(limit=1, onChange="Cancel")
    commits = [work.push("first")]
    chance = Random(7)
    daemon = work.start()
    try:
        for number in range(1, PUSHES):
            work.job(limit=1, onChange="Cancel", extraVars={"number": number})
            commits.append(work.push(f"push {number}"))
            if chance.random() < 0.01:
                daemon.kill()
                daemon.wait()
                daemon = work.start()
        work.reached(commits[-1])
        wait_for(lambda: not work.marked(), "the end of every slice")
        # The daemon itself and one git that reads contents: nothing of a thousand commits is left in its hands.
        process = psutil.Process(daemon.pid)
        wait_for(lambda: len(process.children(recursive=True)) <= 1, "the end of every child")
        assert process.num_fds() < 100
        assert process.num_threads() < 40
    finally:
        work.end(daemon)

    assert work.status()["commit"]["id"] == commits[-1]
    revisions = {revision for (revision,) in work.rows("select revision from jobs")}
    assert len(revisions) > 1
    assert revisions <= {f"main@sha1:{commit}" for commit in commits}
    assert work.children() == {"h1": "success", "h2": "success"}
    assert work.rows("select count(*) from slices where state in ('planned', 'claimed', 'started')") == [(0,)]
    assert work.rows("select count(*) from host_locks") == [(0,)]
    ends = {status for (status,) in work.rows("select status from jobs where host is null")}
    assert ends <= {"success", "cancelled", "failed"}
    again = work.call("run", "--once")
    assert again.code == 0, again.err
    assert len(list((work.state / "snapshots/default").iterdir())) <= len(revisions)
    assert list((work.state / "slices").iterdir()) == []
    assert "Traceback" not in work.log.read_text()
