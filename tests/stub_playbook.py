"""A stub of ansible-playbook, for tests that start hundreds: it does nothing to any host but note in a file that it did.

`install()` makes it a program that reconciler starts like the real one, under the real ansible-runner: it writes the
events and the companion's report that the real one would write for one play with one task. What it is to do stands in a
comment of the playbook, see `playbook()`. tests/adapters/test_stub_playbook.py holds it against the real one.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

MARK = "# stub: "

PROGRAM = r"""
import base64, json, os, re, sys, time, uuid
from datetime import datetime, timezone
from pathlib import Path

playbook = Path(sys.argv[-1])
asked = json.loads(re.search(r"^# stub: (.*)$", playbook.read_text(), re.M).group(1))
hosts = Path(os.environ["RECONCILER_COMPANION_HOSTS"]).read_text().split()
report = open(os.environ["RECONCILER_COMPANION"], "a")
events = Path(os.environ["AWX_ISOLATED_DATA_DIR"]) / "job_events"
events.mkdir(mode=0o700, exist_ok=True)
record = Path(asked["record"])
record.mkdir(exist_ok=True)
names = {"play": "stub", "play_uuid": str(uuid.uuid4()), "task": "Work", "task_uuid": str(uuid.uuid4())}


def note(host, what):
    line = f"{time.monotonic():.6f} {what} {os.environ['RECONCILER_SLICE']}\n"
    file = os.open(record / host, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def began(host):
    file = record / host
    return sum(" begin " in line for line in file.read_text().splitlines()) if file.exists() else 0


def token(data):
    text = base64.b64encode(json.dumps(data).encode()).decode()
    parts = (text[start : start + 78] for start in range(0, len(text), 78))
    return "\x1b[K" + "".join(f"{part}\x1b[{len(part)}D" for part in parts) + "\x1b[K"


def tell(event, text="", **data):
    number = str(uuid.uuid4())
    whole = {"uuid": number, "event": event, "pid": os.getpid(), "created": datetime.now(timezone.utc).isoformat()}
    (events / f"{number}-partial.tmp").write_text(json.dumps({**whole, "event_data": {**names, **data}}))
    (events / f"{number}-partial.tmp").rename(events / f"{number}-partial.json")
    sys.stdout.write(token({"uuid": number}) + text + token({}))
    sys.stdout.flush()


def add(kind, **facts):
    report.write(json.dumps({"kind": kind, **facts}) + "\n")
    report.flush()


plays = [{"play": names["play_uuid"], "name": "stub", "targeted": hosts}]
fails = {host for host, times in asked.get("fail", {}).items() if host in hosts and began(host) < times}
add("playbook", plays=plays, gone=[])
tell("playbook_on_start")
add("play", play=names["play_uuid"], name="stub", planned=hosts, at=time.time(), failed=[], unreachable=[])
tell("playbook_on_play_start", "\nPLAY [stub] ****\n", name="stub", pattern="all")
tell("playbook_on_task_start", "\nTASK [Work] ****\n", name="Work")
for host in hosts:
    note(host, "begin")
    tell("runner_on_start", host=host)
time.sleep(asked.get("seconds", 0))
failed = []
for host in hosts:
    note(host, "end")
    if host in fails:
        failed.append(host)
        result = {"msg": "non-zero return code", "rc": 1, "failed": True}
        tell("runner_on_failed", f"fatal: [{host}]: FAILED!\n", host=host, ignore_errors=False, res=result)
        add("held", host=host, task=names["task_uuid"], failures=1, at=time.time(), failed=failed, unreachable=[])
    else:
        tell("runner_on_ok", f"changed: [{host}]\n", host=host, res={"changed": True})
add("end", plays=plays, at=time.time(), failed=failed, unreachable=[], rescued=[], tags=None)
good = [host for host in hosts if host not in fails]
counts = {name: {} for name in ("skipped", "dark", "rescued", "ignored")}
done = {"processed": dict.fromkeys(hosts, 1), "ok": dict.fromkeys(good, 1), "changed": dict.fromkeys(good, 1)}
tell("playbook_on_stats", "\nPLAY RECAP ****\n", **counts, **done, failures=dict.fromkeys(sorted(fails), 1))
sys.exit(2 if fails else 0)
"""


def install(folder: Path) -> Path:
    """The stub as a program in `folder`, with the real ansible-inventory beside it. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "ansible-playbook"
    program.write_text(f"#!{sys.executable} -IS\n{PROGRAM}", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    real = shutil.which("ansible-inventory", path=str(Path(sys.executable).parent))
    assert real is not None
    (folder / "ansible-inventory").symlink_to(real)
    return program


def playbook(record: Path, *, seconds: float = 0.0, fail: Mapping[str, int] | None = None) -> str:
    """Text of a playbook: each host is noted in `record`/HOST when it begins and ends, `seconds` apart; those in `fail`
    fail so many times before they succeed. The real ansible-playbook would do nothing with it."""
    asked = {"record": str(record), "seconds": seconds, "fail": dict(fail or {})}
    return f"{MARK}{json.dumps(asked)}\n- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug:\n"
