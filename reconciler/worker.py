"""The process of one slice: `python -m reconciler.worker SLICE FENCE`. It must start fast, so it imports little."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from reconciler.adapters.ansible import AnsibleRunner
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.local import SliceFolder
from reconciler.adapters.processes import MARK
from reconciler.adapters.snapshots import snapshot_tree
from reconciler.adapters.store import SCHEMAS_OF_SLICES, SqlStore
from reconciler.app import ansible_options
from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.facts import Revision, SliceId
from reconciler.core.manifest import Timeouts
from reconciler.core.reasons import Reason
from reconciler.engine.slice import SliceProcess
from reconciler.ports import SliceWork
from reconciler.settings import Settings, load_settings

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """0 when the slice ran, whatever became of its hosts; 3 when there was nothing to run."""
    parser = argparse.ArgumentParser(prog="reconciler worker")
    parser.add_argument("slice")
    parser.add_argument("fence", type=int)
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--config", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {given.slice}: %(message)s")
    try:
        return run(SliceId(given.slice), given.fence, load_settings(given.config, state_dir=given.state_dir))
    except ReconcilerError as error:  # nothing was begun: whoever misses this process starts another
        log.error("it can't begin: %s", error)
        return 3


def run(slice_id: SliceId, fence: int, settings: Settings) -> int:
    """What `main` returns."""
    state_dir = settings.state_dir.resolve()
    clock = SystemClock()

    def project(source: str, revision: Revision) -> Path:
        tree = snapshot_tree(state_dir / "snapshots" / source, revision)
        if tree is None:
            raise Unavailable(Reason.SOURCE_UNAVAILABLE, f"the copy of {source} at {revision} is not there")
        return tree

    folder = SliceFolder(state_dir / "slices", slice_id)
    held = folder.hold()
    if held is None:
        log.warning("another process has it")
        return 3
    with held:
        store = SqlStore(settings.url, clock, SCHEMAS_OF_SLICES)

        def timeouts(work: SliceWork) -> Timeouts:
            record = store.manifest(work.key)
            return work.spec.timeouts if record is None else record.spec.timeouts

        process = SliceProcess(
            store,
            lambda source: AnsibleRunner(ansible_options(settings, source)),
            held,
            clock,
            project,
            timeouts=timeouts,
            mark=os.environ.get(MARK),
            max_log_bytes=settings.max_log_bytes,
        )
        owner = f"{socket.gethostname()}:{os.getpid()}"
        recorded = process.run(slice_id, fence, owner, held.place, folder.ansible)
        if recorded:
            folder.remove()
    return 0 if recorded else 3


if __name__ == "__main__":
    sys.exit(main())
