"""Inventories, as the real ansible-inventory reads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.directory import DirectorySnapshot, DirectorySource
from reconciler.adapters.inventory import AnsibleInventory, InventoryOptions
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.hosts import Inventory
from reconciler.core.reasons import Reason
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.ansible

HOSTS = """
site:
  children:
    web:
      hosts:
        web-1: {ansible_host: 10.0.0.1, ansible_port: 2222, reconciler_tags: [blue, "7"]}
        Web-2: {reconciler_tags: {ring: canary, dc: [a, b]}}
    db:
      hosts:
        db-1: {ansible_connection: local}
        db-2: {reconciler_host_id: rack-4}
"""

SCRIPT = """#!/bin/sh
echo read >> {calls}
echo '{{"web": {{"hosts": ["web-1"]}}, "_meta": {{"hostvars": {{}}}}}}'
"""


LINES_PLUGIN = """
DOCUMENTATION = "name: lines\\nshort_description: the hosts of a file that a file names\\noptions: {}\\n"
from ansible.plugins.inventory import BaseInventoryPlugin


class InventoryModule(BaseInventoryPlugin):
    NAME = "lines"

    def verify_file(self, path):
        return path.endswith(".lines")

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        for name in open(open(path).read().strip()).read().split():
            inventory.add_host(name)
"""


class Project:
    """A directory with an inventory, and the reader whose promises are tested."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "source"
        self.root.mkdir()
        self.calls = folder / "calls"
        self.clock = FakeClock()
        self._source = DirectorySource(
            "default",
            self.root,
            state_dir=folder / "state",
            snapshots_dir=folder / "state/snapshots",
            max_files=1000,
            max_bytes=1_000_000,
            clock=self.clock,
        )
        self.reads(InventoryOptions())

    def reads(self, options: InventoryOptions) -> None:
        self._hosts = AnsibleInventory(options, self.clock)

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def write_script(self) -> None:
        self.write("inventory.sh", SCRIPT.format(calls=self.calls), 0o755)

    def load(self, *inventory: str, fresh: bool = False) -> Inventory:
        return self._hosts.load(self._source.sync(), inventory, fresh=fresh)

    def snapshot(self) -> DirectorySnapshot:
        return self._source.sync()

    def copy(self) -> DirectorySnapshot:
        return self._source.keep(self._source.sync().revision)

    def load_from(self, snapshot: DirectorySnapshot, *inventory: str) -> Inventory:
        return self._hosts.load(snapshot, inventory, fresh=True)

    def times_read(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# -- what is in it -----------------------------------------------------------------------------------------------------
def test_hosts_have_their_address_key_tags_and_groups(project: Project) -> None:
    project.write("hosts.yml", HOSTS)
    found = project.load("hosts.yml")
    web = found.hosts["web-1"]
    assert (web.address, web.host_key) == ("10.0.0.1", "10.0.0.1:2222")
    assert web.tags == {"blue", "7", "group:web", "group:site"}
    assert web.groups == {"web", "site"}
    assert found.hosts["Web-2"].address == "Web-2"
    assert found.hosts["Web-2"].host_key == "web-2:22"
    assert found.hosts["Web-2"].tags >= {"ring=canary", "dc=a", "dc=b"}
    assert found.hosts["db-1"].host_key == "default/hosts.yml/db-1"
    assert found.hosts["db-2"].host_key == "rack-4"


def test_groups_hold_the_hosts_of_the_groups_below_them(project: Project) -> None:
    project.write("hosts.yml", HOSTS)
    groups = project.load("hosts.yml").groups
    assert set(groups["site"]) == set(groups["all"]) == {"web-1", "Web-2", "db-1", "db-2"}
    assert set(groups["web"]) == {"web-1", "Web-2"}
    assert groups.get("ungrouped", ()) == ()


def test_several_inventories_are_one(project: Project) -> None:
    project.write("a.ini", "[web]\nweb-1\n")
    project.write("b.ini", "[db]\ndb-1\n")
    assert set(project.load("a.ini", "b.ini").hosts) == {"web-1", "db-1"}


@pytest.mark.parametrize("said", ["verbosity = 3", "debug = True"])
def test_what_ansible_cfg_makes_ansible_say_is_no_part_of_the_answer(project: Project, said: str) -> None:
    project.write("ansible.cfg", f"[defaults]\n{said}\n")
    project.write("hosts.ini", "web-1\n")
    assert set(project.load("hosts.ini").hosts) == {"web-1"}


def test_a_host_name_that_is_no_line_of_a_file_is_refused(project: Project) -> None:
    """The hosts of a slice are handed on a line each: this one would be two others."""
    project.write("hosts.py", '#!/bin/sh\nprintf \'{"all": {"hosts": ["a", "a\\\\nb"]}}\'\n', 0o755)
    with pytest.raises(Unavailable) as refused:
        project.load("hosts.py")
    assert refused.value.reason is Reason.INVENTORY_UNREADABLE
    assert r"'a\nb'" in refused.value.message


# -- which one it is -----------------------------------------------------------------------------------------------------
def test_a_name_or_an_address_that_no_host_has_is_refused_and_a_long_identity_is_kept_short(project: Project) -> None:
    project.write("hosts.yml", f"all: {{hosts: {{a: {{ansible_host: {'x' * 254}}}}}}}")
    with pytest.raises(Unavailable, match="'a' is too long"):
        project.load("hosts.yml")

    project.write("hosts.yml", f"all: {{hosts: {{a: {{reconciler_host_id: {'x' * 701}}}, b: {{}}}}}}")
    keys = {host.name: host.host_key for host in project.load("hosts.yml").hosts.values()}
    assert len(keys["a"]) == 64
    assert keys["b"] == "b:22"


def test_the_manifest_goes_before_ansible_cfg_and_that_before_the_settings(project: Project) -> None:
    for name in ("manifest", "config", "settings"):
        project.write(f"{name}.ini", f"{name}-1\n")
    project.reads(InventoryOptions(default=("settings.ini",)))
    assert set(project.load().hosts) == {"settings-1"}
    project.write("ansible.cfg", "[defaults]\ninventory = config.ini\n")
    assert set(project.load().hosts) == {"config-1"}
    assert set(project.load("manifest.ini").hosts) == {"manifest-1"}


@pytest.mark.parametrize(
    ("inventory", "reason"),
    [
        ((), Reason.INVENTORY_MISSING),
        (("nothing.yml",), Reason.PATH_MISSING),
        (("../hosts.yml",), Reason.PATH_OUTSIDE_SOURCE),
        (("stolen.yml",), Reason.PATH_OUTSIDE_SOURCE),
    ],
)
def test_what_the_source_does_not_have_is_refused(project: Project, inventory: tuple[str, ...], reason: Reason) -> None:
    (project.root.parent / "hosts.yml").write_text(HOSTS)
    (project.root / "stolen.yml").symlink_to("../hosts.yml")
    with pytest.raises(Refused) as refused:
        project.load(*inventory)
    assert refused.value.reason is reason


def test_what_the_ignore_file_names_is_no_inventory(project: Project) -> None:
    project.write("hosts.yml", HOSTS)
    project.write(".reconcilerignore", "hosts.yml\n")
    with pytest.raises(Refused) as refused:
        project.load("hosts.yml")
    assert refused.value.reason is Reason.PATH_MISSING


def test_a_run_sees_the_hosts_that_were_selected(project: Project) -> None:
    """Whichever is read first: the folder, in which more lies than is part of the source, or the copy for the run."""
    project.write("inventory/hosts.ini", "[web]\nweb-1\n")
    project.write("inventory/left_out.ini", "web-2\n")
    project.write("inventory/group_vars/web/left_out.yml", "ansible_host: 10.0.0.9\n")
    project.write(".reconcilerignore", "left_out.*\n")
    live = project.load("inventory")
    assert {host.address for host in live.hosts.values()} == {"web-1"}
    project.reads(InventoryOptions())
    assert project.load_from(project.copy(), "inventory") == live


def test_what_is_put_beside_an_inventory_while_it_is_read_is_no_part_of_the_answer(project: Project) -> None:
    project.write("inventory/hosts.ini", "web-1\n")
    before = project.snapshot()
    project.write("inventory/more.ini", "web-2\n")
    assert set(project.load_from(before, "inventory").hosts) == {"web-1"}
    assert set(project.load("inventory").hosts) == {"web-1", "web-2"}


@pytest.mark.parametrize(("inventory", "address"), [("inventory/hosts.ini", "web-1"), ("hosts.ini", "10.0.0.9")])
def test_variables_at_the_root_count_only_beside_an_inventory(project: Project, inventory: str, address: str) -> None:
    """ansible-playbook playbooks/x.yml does not read them otherwise."""
    project.write(inventory, "web-1\n")
    project.write("group_vars/all.yml", "ansible_host: 10.0.0.9\n")
    assert project.load(inventory).hosts["web-1"].address == address


def test_paths_are_seen_from_the_root_as_by_a_playbook(project: Project, tmp_path: Path) -> None:
    """Those in ansible.cfg, and those that a script or a plugin's configuration has."""
    project.write(
        "ansible.cfg", "[defaults]\ninventory_plugins = plugins/here\n[inventory]\nenable_plugins = lines, script\n"
    )
    project.write("plugins/here/lines.py", LINES_PLUGIN)
    project.write("data/hosts.lines", "web-1\n")
    project.write("data/hosts.json", '{"web": {"hosts": ["web-2"]}}')
    project.write("inventory/a.lines", "data/hosts.lines\n")
    project.write("inventory/b.sh", "#!/bin/sh\ncat data/hosts.json\n", 0o755)
    assert set(project.load("inventory").hosts) == {"web-1", "web-2"}


# -- how long it holds ---------------------------------------------------------------------------------------------------
def test_a_change_of_group_vars_is_seen(project: Project) -> None:
    project.write("inventory/hosts.ini", "[web]\nweb-1\n")
    assert project.load("inventory").hosts["web-1"].address == "web-1"
    project.write("inventory/group_vars/web.yml", "ansible_host: 10.0.0.9\n")
    assert project.load("inventory").hosts["web-1"].address == "10.0.0.9"


def test_a_static_inventory_is_read_once(project: Project) -> None:
    project.write("hosts.yml", HOSTS)
    first = project.load("hosts.yml")
    project.clock.advance(timedelta(days=1))
    assert project.load("hosts.yml", fresh=True) is first


def test_a_script_is_read_again_when_it_is_old_or_asked_for_afresh(project: Project) -> None:
    project.write_script()
    project.load("inventory.sh")
    project.load("inventory.sh")
    assert project.times_read() == 1
    project.load("inventory.sh", fresh=True)
    assert project.times_read() == 2
    project.clock.advance(timedelta(minutes=6))
    project.load("inventory.sh")
    assert project.times_read() == 3


def test_an_edit_during_the_reading_is_not_taken_for_what_was_there_before(project: Project) -> None:
    project.write("inventory/hosts.ini", "before-1\n")
    edit = f"#!/bin/sh\necho after-1 > '{project.root}/inventory/hosts.ini'\necho '{{}}'\n"
    project.write("inventory/a_script.sh", edit, 0o755)
    with pytest.raises(Unavailable) as unavailable:
        project.load("inventory")
    assert unavailable.value.reason is Reason.SOURCE_MOVED


# -- secrets -----------------------------------------------------------------------------------------------------------
def test_what_a_vault_hides_is_written_to_no_file(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, scratch, found, state = "word-of-a-vault", tmp_path / "tmp", tmp_path / "found", tmp_path / "state"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    beside = Path(sys.executable).parent
    (tmp_path / "password").write_text("opens it\n")
    encrypted = subprocess.run(
        [beside / "ansible-vault", "encrypt", "--vault-password-file", tmp_path / "password", "--output", "-"],
        input=f"reconciler_tags: [hidden]\npassword: {word}\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    project.write("inventory/hosts.ini", "[web]\nweb-1\n")
    project.write("inventory/group_vars/web.yml", encrypted)
    looks = tmp_path / "looks"  # for the word, while all that the real one has answered still lies about
    looks.write_text(
        f'#!/bin/sh\n{beside}/ansible-inventory "$@" || exit\ngrep -rl {word} {scratch} > {found}\nexit 0\n'
    )
    looks.chmod(0o755)
    options = InventoryOptions(ansible_inventory=looks, vault_password_files=(tmp_path / "password",))
    hosts = AnsibleInventory(options, project.clock, state)
    assert "hidden" in hosts.load(project.snapshot(), ("inventory",)).hosts["web-1"].tags
    assert found.read_text() == ""
    assert [path for path in state.rglob("*") if path.is_file() and word in path.read_text()] == []


def test_a_process_that_a_script_leaves_behind_is_not_waited_for(project: Project, tmp_path: Path) -> None:
    left = tmp_path / "left"
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\n{Path(sys.executable).parent}/ansible-inventory "$@"\nsleep 600 &\necho $! > {left}\n'
    )
    program.chmod(0o755)
    project.write("hosts.yml", HOSTS)
    project.reads(InventoryOptions(ansible_inventory=program, time_limit=timedelta(minutes=5)))
    try:
        assert "web-1" in project.load("hosts.yml").hosts
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


# -- what goes wrong -----------------------------------------------------------------------------------------------------
def test_a_broken_file_is_told_in_the_words_of_ansible(project: Project) -> None:
    project.write("hosts.yml", "web: [\n")
    with pytest.raises(Unavailable) as unavailable:
        project.load("hosts.yml")
    assert unavailable.value.reason is Reason.INVENTORY_UNREADABLE
    assert "hosts.yml" in unavailable.value.message
    assert "\x1b" not in unavailable.value.message


def test_an_inventory_without_hosts_is_taken_for_a_fault(project: Project) -> None:
    project.write("hosts.ini", "[web]\n")
    with pytest.raises(Unavailable) as unavailable:
        project.load("hosts.ini")
    assert unavailable.value.reason is Reason.INVENTORY_EMPTY


def test_a_script_that_hangs_is_ended(project: Project) -> None:
    project.write("inventory.sh", "#!/bin/sh\nexec sleep 600\n", 0o755)
    project.reads(InventoryOptions(time_limit=timedelta(seconds=3)))
    with pytest.raises(Unavailable) as unavailable:
        project.load("inventory.sh")
    assert unavailable.value.reason is Reason.INVENTORY_UNREADABLE
    assert "3 s" in unavailable.value.message


def test_a_missing_tool_is_named(project: Project) -> None:
    project.write("hosts.yml", HOSTS)
    project.reads(InventoryOptions(ansible_inventory=project.root / "no-such-tool"))
    with pytest.raises(Unavailable) as unavailable:
        project.load("hosts.yml")
    assert unavailable.value.reason is Reason.ANSIBLE_MISSING
    assert "no-such-tool" in unavailable.value.message
