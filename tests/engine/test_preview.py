"""What would run, told before anything does."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.facts import CauseKind
from reconciler.core.plans import Limits, Verdict
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.preview import Preview, preview
from reconciler.engine.resolve import Resolver
from tests.builders import JOB
from tests.engine.worlds import World, fails


def previewed(world: World) -> Sequence[Preview]:
    found, _ = preview(
        world.source.sync(),
        Catalogue("default", ["jobs/**/*.yaml"], max_limit=20),
        Resolver(world.inventory, Limits(50)),
        world.store.manifests("default"),
        world.store.observe,
        world.store.pending_requests,
        world.clock.now(),
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
