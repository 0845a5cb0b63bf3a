"""Tokens for the daemon's port: made here, and kept nowhere but as their SHA-256."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from reconciler.cli import show
from reconciler.cli.options import USAGE, complain


class Allowed(StrEnum):
    """What a token may do."""

    READ = "read"
    OPERATE = "operate"
    WRITE = "write"


def add_to(app: typer.Typer) -> None:
    app.command()(token)


def token(
    name: Annotated[str, typer.Argument(help="Whose it is: a DNS label, as audits will have it.")],
    scope: Annotated[
        list[Allowed] | None,
        typer.Option("--scope", help="read: look; operate: trigger, retry, cancel; write: manifests. Repeatable."),
    ] = None,
) -> None:
    """Make a token for the port of a daemon. It is shown this once: only its SHA-256 goes into the settings."""
    from reconciler.web.tokens import digest_of, new_token

    if len(name) > 63 or not re.fullmatch(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", name):
        complain(f"{name!r} is no DNS label", "up to 63 of a-z, 0-9 and '-', such as grafana or kim-laptop")
        raise typer.Exit(USAGE)
    made = new_token()
    scopes = ", ".join(f'"{each}"' for each in dict.fromkeys(scope or [Allowed.READ]))
    show.err.print(f"The token of {name}, shown this once:", markup=False)
    show.out.print(made, markup=False)
    show.err.print(
        f"\nIn the settings; then HUP to the daemon (systemctl reload reconciler), or restart it:\n\n"
        f'[[http.tokens]]\nname = "{name}"\nhash = "{digest_of(made)}"\nscopes = [{scopes}]\n',
        markup=False,
    )
