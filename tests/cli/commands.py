"""How the stories of commands call them."""

from __future__ import annotations

import json
from typing import Any, Protocol


class Call(Protocol):
    def __call__(self, *arguments: str) -> str: ...


class Fail(Protocol):
    def __call__(self, code: int, *arguments: str) -> str: ...


def titles(table: str) -> list[str]:
    return table.splitlines()[0].split()


def rows(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)
    return found
