"""`python -m tests.fuzz.one TARGET FINDS ARGUMENTS...`: fuzz one target in this process, with the arguments of libFuzzer.
What breaks a promise is put into the folder FINDS."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["reconciler"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.damage import as_bytes, mutated


def mutate_document(data: bytes, max_size: int, seed: int) -> bytes:
    """A document that is changed stays one; what is none is left to libFuzzer."""
    try:
        document = json.loads(data)
        changed = as_bytes(mutated(document, Random(seed)))
    except (ValueError, RecursionError):
        left_to_it: bytes = atheris.Mutate(data, max_size)
        return left_to_it
    return changed if len(changed) <= max_size else data


def main() -> None:
    name, finds, *arguments = sys.argv[1:]
    target = TARGETS[name]

    def check(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            # libFuzzer does the same, unless its own alarm ends the process before
            Path(finds, f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            raise

    changes = {"custom_mutator": mutate_document} if target.document else {}
    atheris.Setup([sys.argv[0], f"-artifact_prefix={finds}/", *arguments], check, **changes)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
