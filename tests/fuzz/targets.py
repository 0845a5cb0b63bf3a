"""All that is fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import documents, events, manifests

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target: good inputs, odd ones, and those that have found something."""


@dataclass(frozen=True, slots=True)
class Target:
    """`check` fails if a promise is broken. `document`: its inputs are JSON, and changed as such. `words` are pieces that
    mean something in them."""

    check: Callable[[bytes], None]
    document: bool = False
    words: tuple[str, ...] = ()

    def __call__(self, data: bytes) -> None:
        self.check(data)


_YAML = ("- ", ": ", "\n  ", "\n---\n", "? ", "| ", "> ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "!vault ", "!!int ")
_MANIFEST = (
    *("apiVersion: reconciler/v1\n", "kind: BatchJob\n", "metadata:\n", "name: ", "spec:\n", "playbook: ", "selector:"),
    *("tags: ", "hosts: ", "pattern: ", "search: ", "all: true", "limit: ", "extraVars:", "timeouts:", "wave: 30m"),
    *("annotations:", "reconciler/requestedAt", "runOn: ", "inventory: ", "1e999", ".nan", "__ansible_vault"),
)
_PLAYBOOK = (
    *("- hosts: all\n", "tasks:", "roles: [app]", "import_playbook: site.yml", "include_tasks: tasks.yml", "serial: 1"),
    *("run_once: true", "vars_prompt:", "name: ", "{{ playbook_dir }}", "{{ role_path }}", "block:", "rescue:"),
    *("[defaults]\n", "roles_path = roles\n", "!!float ", "!!timestamp ", "!!bool ", "!!binary ", "!!set ", "1:30:00"),
)
_SETTINGS = (
    *("state_dir = ", "database_url = ", "[ansible]\n", "[http]\n", "[[sources]]\n", "name = ", "url = ", "branch = "),
    *(
        "interval = ",
        '"30s"',
        "[sources.status]\n",
        "max_running = ",
        "manifests = [",
        "'''",
        '"""',
        "2026-11-26",
        "inf",
    ),
)

TARGETS: Mapping[str, Target] = {
    "manifests": Target(manifests.check_manifests, words=(*_YAML, *_MANIFEST)),
    "playbooks": Target(manifests.check_playbook, words=(*_YAML, *_PLAYBOOK)),
    "ignore": Target(manifests.check_ignore_rules, words=("**/", "/**/", "/**", "*", "[!a-z]", "[^]]", "\\", "!", "#")),
    "addresses": Target(manifests.check_addresses, words=("https://", "ssh://", "file:///", "ext::", "git@", ":", "@")),
    "settings": Target(manifests.check_settings, words=_SETTINGS),
    "events": Target(events.check_events, document=True),
    "spool": Target(documents.check_spool, words=('"outcomes"', '"sequence": ', '"host": ', '"text": ', "null", "\n")),
    "statuses": Target(documents.check_status, document=True),
    "inventory": Target(documents.check_inventory, document=True),
    "trees": Target(documents.check_tree, words=("../", ".git", "/", "\t", "..", ".")),
}


def inputs_of(name: str) -> list[Path]:
    """The corpus of a target."""
    return sorted((CORPUS / name).iterdir())
