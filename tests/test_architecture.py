"""The house stands, as far as the import contracts of pyproject.toml can't say it: `make check` proves those."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reconciler"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 600
"""Lines: a module past that asks to be split by responsibility."""

FOR_OTHERS = {
    "alembic",
    "fastapi",
    "prometheus_client",
    "rich",
    "starlette",
    "structlog",
    "typer",
    "uvicorn",
    "watchfiles",
}
"""What the daemon, the web and the command line need, and a slice does not."""

SAYS_NOTHING = {"common", "helpers", "manager", "models", "types", "utils"}

CORE_MAY_USE = {"pydantic", "pydantic_core", "yaml"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_process_of_a_slice_imports_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """It starts anew for every wave. What it imports late counts too: so it is asked after a whole start."""
    code = (
        "import sys, reconciler.worker as worker\n"
        "try: worker.main(['no-such-slice', '1', '--state-dir', sys.argv[1]])\n"
        "except Exception: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "state")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"reconciler", "ansible_runner", "sqlalchemy"} <= imported
    assert imported & FOR_OTHERS == set()


def test_nor_does_it_import_the_parts_of_the_daemon() -> None:
    code = "import sys, reconciler.worker; print(*(name for name in sys.modules if name.startswith('reconciler.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = done.stdout.split()
    daemon = ("cli", "web", "engine.daemon", "engine.reconcile", "adapters.metrics", "adapters.inventory")
    assert [name for name in ours if name.removeprefix("reconciler.").startswith(daemon)] == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=name_of)
def test_core_imports_the_standard_library_and_two_others(path: Path) -> None:
    outside = {
        name
        for name in imports_of(path)
        if name not in sys.stdlib_module_names and name not in CORE_MAY_USE and name != "reconciler"
    }
    assert outside == set()


def imports_of(path: Path) -> Iterator[str]:
    """Top-level names of what a module imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module.partition(".")[0]
            case _:
                pass


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=name_of)
def test_no_module_is_longer_than_one_can_read(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines: split it by responsibility"


@pytest.mark.parametrize("path", [path for path in MODULES if path.stat().st_size], ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_name_of_a_module_says_what_is_in_it(path: Path) -> None:
    assert not {*path.relative_to(PACKAGE).with_suffix("").parts} & SAYS_NOTHING


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=name_of)
def test_every_public_function_of_core_says_what_it_decides(path: Path) -> None:
    functions = [node for node in public(path) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if not ast.get_docstring(node)] == []


def test_every_port_states_its_promise() -> None:
    pages = sorted((PACKAGE / "ports").glob("*.py"))
    doors = [node for page in pages for node in public(page) if "Protocol" in map(ast.unparse, node_bases(node))]
    assert len(doors) > 8
    assert [node.name for node in doors if not ast.get_docstring(node)] == []


def public(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def node_bases(node: ast.FunctionDef | ast.ClassDef) -> list[ast.expr]:
    return node.bases if isinstance(node, ast.ClassDef) else []
