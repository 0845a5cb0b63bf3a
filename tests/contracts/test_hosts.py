"""What every reader of inventories promises, and that our host patterns mean what Ansible's mean."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.directory import DirectorySource
from reconciler.adapters.inventory import AnsibleInventory, InventoryOptions
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.hosts import Inventory, match_pattern
from reconciler.core.reasons import Reason
from reconciler.ports import Hosts, Snapshot
from tests.fakes.hosts import FakeHosts, an_inventory

pytestmark = pytest.mark.ansible

FLEET = """
[web]
web-10
web-2
web-1

[db]
db-1
db-2.example.org

[prod]
web-1
db-1

[canary]
web-2

[site:children]
web
db

[v6]
2001:db8::1
2001:db8::2

[single]
lone
"""


def sources(folder: Path, content: str) -> Snapshot:
    root = folder / "source"
    root.mkdir()
    (root / "hosts.ini").write_text(content)
    state = folder / "state"
    return DirectorySource(
        "default",
        root,
        state_dir=state,
        snapshots_dir=state / "snapshots",
        max_files=10,
        max_bytes=10_000,
        clock=SystemClock(),
    ).sync()


def real(error: Reason | None) -> Hosts:
    return AnsibleInventory(InventoryOptions(), SystemClock())


def fake(error: Reason | None) -> Hosts:
    if error is not None:
        return FakeHosts(Unavailable(error, "no hosts"))
    members = {"web": ("web-10", "web-2"), "site": ("web-10", "web-2", "db-1"), "db": ("db-1",)}
    return FakeHosts(an_inventory(members["site"], members))


@pytest.fixture(params=[real, fake], ids=["ansible", "fake"])
def build(request: pytest.FixtureRequest) -> Callable[[Reason | None], Hosts]:
    made: Callable[[Reason | None], Hosts] = request.param
    return made


SMALL = "[web]\nweb-10\nweb-2\n[db]\ndb-1\n[site:children]\nweb\ndb\n"


def test_groups_and_hosts_agree(build: Callable[[Reason | None], Hosts], tmp_path: Path) -> None:
    found = build(None).load(sources(tmp_path, SMALL), ("hosts.ini",))
    assert set(found.hosts) == set(found.groups["all"]) == {"web-10", "web-2", "db-1"}
    assert "ungrouped" in found.groups
    for name, host in found.hosts.items():
        assert host.name == name
        assert host.address
        assert host.host_key
        real_groups = {group for group, names in found.groups.items() if name in names} - {"all", "ungrouped"}
        assert host.groups == real_groups
        assert host.tags == {f"group:{group}" for group in real_groups}


def test_the_same_inventory_has_the_same_digest(build: Callable[[Reason | None], Hosts], tmp_path: Path) -> None:
    hosts, snapshot = build(None), sources(tmp_path, SMALL)
    assert hosts.load(snapshot, ("hosts.ini",)) == hosts.load(snapshot, ("hosts.ini",), fresh=True)


def test_no_host_at_all_is_an_error_each_time(build: Callable[[Reason | None], Hosts], tmp_path: Path) -> None:
    hosts, snapshot = build(Reason.INVENTORY_EMPTY), sources(tmp_path, "[web]\n")
    for fresh in (False, False, True):
        with pytest.raises(Unavailable) as unavailable:
            hosts.load(snapshot, ("hosts.ini",), fresh=fresh)
        assert unavailable.value.reason is Reason.INVENTORY_EMPTY


# -- patterns ----------------------------------------------------------------------------------------------------------
PATTERNS = (
    "all",
    "*",
    "web",
    "web-1",
    "web,db",
    "web:db",
    "web : db",
    "web:!canary",
    "!canary:web",
    "web:&prod",
    "site:&prod:!db",
    "&prod",
    "!web",
    "!web:!v6",
    "canary,prod",
    "web-*",
    "*1",
    "db*",
    "w?b",
    "web-[12]*",
    "web-?",
    "*.example.org",
    "db-2.example.org",
    "web[0]",
    "web[-1]",
    "web[-3]",
    "web[1:]",
    "web[0:1]",
    "web[0:0]",
    "web[1:99]",
    "web[5:9]",
    "web[0:1]:db[0]",
    "site[0]",
    "site[1:3]",
    "all[-1]",
    "single[0]",
    "~web-[0-9]$",
    "~(web|db)-1",
    "~.*example.*",
    "web:!~web-1",
    "v6",
    "2001:db8::1",
    "2001:db8::1,web-1",
    "~2001.*",
    "web,!canary,&prod",
    "nothing*",
    "~nothing",
    "ungrouped",
    "all:!all",
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inventory]:
    folder = tmp_path_factory.mktemp("fleet")
    found = real(None).load(sources(folder, FLEET), ("hosts.ini",))
    return folder / "source", found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_ansible(fleet: tuple[Path, Inventory], pattern: str) -> None:
    """The order too, but for hosts found by glob: Ansible has those in the order in which it read them."""
    root, inventory = fleet
    ours, theirs = list(match_pattern(inventory, pattern)), said_by_ansible(root, pattern)
    if any(sign in pattern for sign in "*?~"):
        ours, theirs = sorted(ours), sorted(theirs)
    assert ours == theirs


@pytest.mark.parametrize("pattern", ["web[7]", "web[-9]", "~web-(", "unknown"])
def test_a_mistake_that_is_no_match_to_ansible_is_refused(fleet: tuple[Path, Inventory], pattern: str) -> None:
    root, inventory = fleet
    assert said_by_ansible(root, pattern) == []
    with pytest.raises(Refused) as refused:
        match_pattern(inventory, pattern)
    assert refused.value.reason is Reason.BAD_PATTERN


def said_by_ansible(root: Path, pattern: str) -> list[str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible"), "-i", "hosts.ini", "--list-hosts", "--", pattern],
        cwd=root,
        env={"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
