"""What would run, told before anything does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.core.facts import CauseKind
from reconciler.core.plans import Limits, Verdict
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.preview import Preview, preview
from reconciler.engine.resolve import Resolver
from tests.builders import JOB
from tests.engine.worlds import World, fails
from tests.fakes.store import FakeStore


def previewed(world: World) -> Sequence[Preview]:
    found, _ = preview(
        world.source.sync(),
        Catalogue("default", ["jobs/**/*.yaml"], max_limit=20),
        Resolver(world.inventory, Limits(50)),
        world.store.manifests("default"),
        world.store.observe,
        world.store.pending_requests,
        world.clock.now(),
        sources=world.store.sources(),
        shown=world.sink,
    )
    return found


def test_a_manifest_that_nobody_read_yet_shows_its_waves_and_why() -> None:
    world = World(hosts=3)
    world.write(limit=2)
    (found,) = previewed(world)
    assert [cause.kind for cause in found.causes] == [CauseKind.SPEC_CHANGED]
    assert found.plan.waves == (("web-1", "web-2"), ("web-3",))
    assert world.store.observe(JOB).run is None
    assert world.store.manifests("default") == {}


def test_a_request_that_waits_for_a_daemon_counts() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all()
    (rests,) = previewed(world)
    assert (rests.plan.verdict, rests.plan.actions) == (Verdict.CONVERGED, ())
    world.trigger()
    (asked,) = previewed(world)
    assert [cause.kind for cause in asked.causes] == [CauseKind.REQUESTED]
    assert asked.plan.waves == (("web-1", "web-2"),)
    assert len(world.store.pending_requests(JOB)) == 1


def test_a_cause_that_is_written_down_already_is_shown_once() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all(fails("web-2"))
    world.commit(suspend=True)
    world.change_playbook()
    world.look()
    world.write()
    (found,) = previewed(world)
    assert [cause.kind for cause in found.causes] == [CauseKind.PLAYBOOK_CHANGED]


def test_a_retry_that_waits_for_a_daemon_shows_its_hosts() -> None:
    world = World(hosts=3)
    world.commit(minHosts=3)
    world.run_all(fails("web-2", "web-3"))
    world.retry()
    (asked,) = previewed(world)
    assert [cause.kind for cause in asked.causes] == [CauseKind.RETRIED]
    assert (asked.runs, asked.plan.waves) == (True, (("web-2", "web-3"),))
    world.look()
    assert [child.host for child in world.run().children] == ["web-2", "web-3"], "it was the truth"


def test_a_retry_that_will_be_refused_shows_nothing() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all()
    world.retry()
    (asked,) = previewed(world)
    assert (asked.causes, asked.runs) == ((), False)


def test_hosts_that_wait_for_another_attempt_are_shown() -> None:
    world = World(hosts=3)
    retry: dict[str, Any] = {"limit": 1, "backoff": "1m"}
    world.commit(limit=2, retry=retry)
    world.look()
    world.work(fails("web-2"))
    world.look()
    (found,) = previewed(world)
    assert (found.plan.retries, found.plan.waves, found.runs) == (("web-2",), (("web-3",),), False)
    assert found.plan.wake_at is not None


def test_while_paused_nothing_would_run_and_it_is_shown_why() -> None:
    world = World(hosts=2)
    world.commit()
    world.pause()
    (found,) = previewed(world)
    assert (found.plan.verdict, found.runs) == (Verdict.SUSPENDED, False)
    assert found.plan.blocked is not None
    assert found.plan.blocked.message.startswith("everything is paused by kim")
    world.resume()
    (found,) = previewed(world)
    assert found.runs


def test_what_would_be_held_is_shown_as_held() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all()

    def verdict() -> tuple[Verdict, Reason | None]:
        (found,) = previewed(world)
        return found.plan.verdict, None if found.plan.blocked is None else found.plan.blocked.reason

    assert verdict() == (Verdict.CONVERGED, None)
    world.store = FakeStore(world.clock)
    assert verdict() == (Verdict.STALLED, Reason.STATE_LOST)
    world.store.add_sources({"default": None})
    assert verdict() == (Verdict.STALLED, Reason.STATE_LOST), "an older database, which knows the source"
    world.sink.statuses.clear()
    assert verdict() == (Verdict.PROGRESSING, None)
    world.store = FakeStore(world.clock)
    world.store.add_sources({"another": None})
    assert verdict() == (Verdict.STALLED, Reason.AWAITING_ADOPTION)
    assert world.store.sources() == {"another": None}, "looking changes nothing"
