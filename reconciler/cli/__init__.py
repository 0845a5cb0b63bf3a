"""The command line: `reconciler …`. Exit codes: 0 ok, 1 the work failed, 2 wrong usage or an invalid manifest, 3 changes
planned, 4 cannot tell, 130 interrupted."""

from reconciler.cli.commands import app

__all__ = ["app"]
