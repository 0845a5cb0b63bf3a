"""Writes the dashboards beside it, or says which of them are not what the code makes.

python -m specs.grafana.dashboards [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from specs.grafana import batch, children, fleet

FOLDER = Path(__file__).parent


def texts() -> Mapping[str, str]:
    """File to what is in it: classic dashboards, as Grafana 10 and later import them."""
    made = (fleet.dashboard(), batch.dashboard(), children.dashboard())
    plain = [json.loads(JSONEncoder().encode(each.build())) for each in made]
    return {
        f"{each['uid']}.json": json.dumps(without_nothing(each), indent=2, ensure_ascii=False) + "\n" for each in plain
    }


def without_nothing(value: object) -> object:
    """The library writes null where nothing was said, which some panels take for something."""
    match value:
        case dict():
            return {name: without_nothing(each) for name, each in value.items() if each is not None or name == "value"}
        case list():
            return [without_nothing(each) for each in value]
        case _:
            return value


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the files that are not what the code says."""
    return [
        name
        for name, text in texts().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what the code makes")
    if parser.parse_args().check:
        wrong = stale()
        for name in wrong:
            sys.stderr.write(f"specs/grafana/{name} is not what the code makes: run `make fix`\n")
        return 1 if wrong else 0
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
