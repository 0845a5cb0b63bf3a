"""What a daemon says of itself when something keeps it from its work, or soon will."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from reconciler.core.facts import JobKey
from reconciler.ports import RequestKind
from tests.acceptance.workspace import wait_for
from tests.builders import JOB, OTHER_JOB, make_request
from tests.engine.houses import House

FULL = "the disk with /state is nearly full: 12 MB are left, min_free_bytes is 200 MB"


def test_a_daemon_that_lacks_nothing_has_nothing_to_say(house: House) -> None:
    house.world.write()
    house.build().start()
    wait_for(house.ended(), "the run")

    assert house.daemon.unready() == ()


def test_a_disk_that_is_nearly_full_is_told_and_keeps_nothing_from_running(house: House) -> None:
    house.full = FULL
    house.world.write()
    house.build().start()
    wait_for(house.ended(), "the run")

    assert house.daemon.unready() == (FULL,)
    assert house.daemon.problems() == (), "of the sources there are none"
    house.full = None
    assert house.daemon.unready() == ()


def test_the_log_tells_once_that_the_disk_is_nearly_full_and_once_that_it_is_not(house: House) -> None:
    house.build()

    def told() -> list[str]:
        with capture_logs() as log:
            house.daemon.resync()
        return [line["event"] for line in log if line["event"].startswith("disk")]

    assert told() == []
    house.full = FULL
    assert told() == ["disk_nearly_full"]
    assert told() == []
    house.full = None
    assert told() == ["disk_has_room"]
    assert told() == []


def test_statuses_that_can_not_be_written_are_told_with_how_many(house: House) -> None:
    house.world.write()
    house.world.write(OTHER_JOB.name)
    house.world.sink.broken = True
    house.build().start()
    wait_for(lambda: len(house.daemon.failures()) == 2, "both to fail")

    first, second = house.daemon.unready()
    assert "could not be written: no space left on device" in first
    assert second == "nor could those of 1 more"
    house.world.sink.broken = False
    for key in (JOB, OTHER_JOB):
        house.daemon.queue.add(key)
    wait_for(lambda: house.daemon.unready() == (), "the statuses to be written")


@pytest.mark.parametrize("source", ["", "default"])
def test_a_pause_is_told_when_a_daemon_starts_and_when_it_begins_and_ends(house: House, source: str) -> None:
    key = JobKey(source, "")
    house.world.store.pause(make_request("1", RequestKind.PAUSE, key=key, reason="moving the storage"))
    with capture_logs() as log:
        house.build().start()
        house.world.store.resume(make_request("2", RequestKind.RESUME, key=key))
        wait_for(lambda: any(line["event"] == "resumed" for line in log), "the resume to be heard of")
        house.world.store.pause(make_request("3", RequestKind.PAUSE, key=key, reason="again"))
        wait_for(lambda: [line["event"] for line in log].count("paused") == 2, "the pause to be heard of")

    first, second = (line for line in log if line["event"] == "paused")
    assert (first["source"], first["by"], first["why"]) == (source or "all", "kim", "moving the storage")
    assert (second["source"], second["why"]) == (source or "all", "again")
    assert house.daemon.unready() == (), "it is somebody's wish"
