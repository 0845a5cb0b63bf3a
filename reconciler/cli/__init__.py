"""The command line: `reconciler …`. Exit codes: 0 ok, 1 the work failed, 2 wrong usage or an invalid manifest, 3 changes
planned, 4 cannot tell, 130 interrupted."""

import typer

from reconciler.cli import asking, checking, databases, looking, running, steering, system, tokens, validating

app = typer.Typer(name="reconciler", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
app.callback()(system.reconciler)
for part in (running, validating, checking, looking, asking, steering, databases, tokens, system):
    part.add_to(app)

__all__ = ["app"]
