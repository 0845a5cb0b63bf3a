"""A playbook that prints without end: neither the disk nor the memory fills up, and its log says what it left out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.acceptance.leavings import daemon, worker_of
from tests.acceptance.workspace import Workspace, wait_for

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

MEGABYTE = 1 << 20
LIMIT = MEGABYTE
ITEMS, SIZE = 500, 100_000


def memory(pid: int) -> int:
    """The most that a process ever had; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


def on_disk(folder: Path) -> int:
    sizes = []
    for below, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append((Path(below) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return sum(sizes)


def test_fifty_megabytes_of_output_stay_out_of_memory_and_off_the_disk(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    here, chatty = tmp_path / "here", f"{{{{ ('y' * 99 ~ '\\n') * {SIZE // 100} }}}}"
    work.write(
        "playbooks/work.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        f"    - {{name: Begin, ansible.builtin.raw: 'touch {here}'}}\n"
        f'    - name: Talk\n      ansible.builtin.debug: {{msg: "{chatty}"}}\n'
        f"      loop: '{{{{ range({ITEMS}) | list }}}}'\n      when: inventory_hostname == 'h1'\n"
        "    - {name: End, ansible.builtin.raw: 'echo it is over >&2; false'}\n",
    )
    settings = tmp_path / "reconciler.toml"
    settings.write_text(f"max_log_bytes = {LIMIT}\n")
    work.job()
    memories, disks = [0], [0]
    with daemon(work, "--config", str(settings)):
        wait_for(here.exists, "the first task")
        worker = worker_of(work)

        def over() -> bool:
            memories.append(memory(worker))
            disks.append(on_disk(work.state))
            return work.status().get("phase") == "Failed"

        wait_for(over, "the end of the run")

    assert 0 < max(memories) < 100 * MEGABYTE
    assert max(disks) < 20 * MEGABYTE
    log = work.call("logs", "work", "h1").out
    assert len(log.encode()) < LIMIT
    assert log.startswith("PLAY [all]\nTASK [Begin]\n")
    assert "max_log_bytes (1.0 MiB) is reached" in log
    (left,) = re.findall(r"… ([\d,]+) lines \(([\d.]+) MiB\) left out", log)
    assert int(left[0].replace(",", "")) > ITEMS * SIZE / 100 * 0.9
    assert log.rstrip().endswith("non-zero return code 1: it is over")
    assert "left out" not in work.call("logs", "work", "h2").out
    assert work.children() == {"h1": "failed", "h2": "failed"}
