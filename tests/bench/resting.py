"""A whole daemon, its port included, with many manifests that want nothing: `python -m tests.bench.resting SOURCE STATE` prints one line of JSON.

`first`: seconds until all were looked at; `resync`: seconds for a resync after that, the median of five; `memory`: MB
that only this process has, the most of what was seen while its metrics were rendered and read a few times.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import psutil
import structlog

from reconciler import app
from reconciler.adapters.metrics import RENDER_INTERVAL
from reconciler.port import Shown
from reconciler.settings import load_settings
from reconciler.web import Health


def main(source: Path, state: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    settings = load_settings(None, state_dir=state, http={"listen": "127.0.0.1:0"})
    store = app.create_store(settings)
    with app.daemon_of(settings, store, None) as process:
        lead = process.leadership.lead
        assert lead is not None
        built = app.build_sources(settings, source, store, working_tree=True)
        daemon = process.build(settings, built, lead).daemon
        web = app.build_web_server(settings, process, built, Shown(Health, daemon.poke))
        web.start()
        begin = time.monotonic()
        daemon.start(once=True)
        while not daemon.rested(0.1):
            pass
        first = time.monotonic() - begin
        resyncs = []
        for _ in range(5):
            begin = time.monotonic()
            built[0].source.sync()
            daemon.resync()
            while not daemon.queue.wait_idle(60):
                pass
            resyncs.append(time.monotonic() - begin)
        memory = max(_memory(f"http://127.0.0.1:{web.server.port}/metrics"))
        web.stop()
        daemon.stop()
    sys.stdout.write(json.dumps({"first": first, "resync": median(resyncs), "memory": memory}) + "\n")


def _memory(metrics: str) -> Iterator[float]:
    """MB, once a second for as long as the page takes to be rendered three times. A daemon that nobody scrapes is
    smaller, and is not what runs anywhere."""
    process = psutil.Process()
    end = time.monotonic() + 3 * RENDER_INTERVAL + 1
    while time.monotonic() < end:
        with urlopen(metrics, timeout=60) as answer:
            while answer.read(1 << 16):  # the reader must not add to what it measures
                pass
        yield process.memory_full_info().uss / 1e6
        time.sleep(1.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
