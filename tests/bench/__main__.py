"""`python -m tests.bench [batch] [pickup] [scale] [git] [load] [browse] [live]`: measure, print a table, exit 1 if a bound is broken."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.bench import batch, browse, git, live, load, pickup, scale

PARTS = {
    "batch": batch.measure,
    "pickup": pickup.measure,
    "scale": scale.measure,
    "git": git.measure,
    "load": load.measure,
    "browse": browse.measure,
    "live": live.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    names = parser.parse_args().parts or list(PARTS)
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")
    broken = 0
    for name in names:
        load = os.getloadavg()[0]
        sys.stdout.write(f"\n== {name} (load before: {load:.1f} on {os.cpu_count()} cores)\n")
        with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as folder:
            for number in PARTS[name](Path(folder)):
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()
                broken += not number.kept
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
