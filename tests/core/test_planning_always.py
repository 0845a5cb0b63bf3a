"""What holds of the planner whatever happens: worlds that hypothesis makes up, each played to its end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.facts import CauseKind, ChildStatus, Slice, SliceState
from reconciler.core.folding import conclude, fold, standing
from reconciler.core.planning import plan
from reconciler.core.plans import StartWave, Verdict
from tests.core.played import World
from tests.core.test_status_always import worlds

ENDS = [status for status in ChildStatus if status.finished and status is not ChildStatus.SKIPPED]
STEERING = st.fixed_dictionaries(
    {
        "limit": st.integers(1, 5),
        "stopOnFailure": st.booleans(),
        "strategy": st.sampled_from(["parallel", "parallel", "sequential"]),
        "onChange": st.sampled_from(["Finish", "StopAfterWave", "Cancel"]),
        "suspend": st.sampled_from([False, False, False, True]),
    },
    optional={
        "hostsPerProcess": st.integers(1, 3),
        "retry": st.fixed_dictionaries(
            {"limit": st.integers(1, 3)}, optional={"backoff": st.just("20m"), "unknown": st.booleans()}
        ),
        "timeouts": st.fixed_dictionaries({"run": st.sampled_from(["10m", "2h"])}),
    },
)
HAPPENINGS = st.sampled_from(
    ["end", "end", "end", "end", "wait", "steer", "commit", "cancel", "remove", "pause", "resume", "give back", "ask"]
)


@given(data=st.data(), hosts=st.integers(1, 10), steering=STEERING)
def test_from_any_world_it_comes_to_rest(data: st.DataObject, hosts: int, steering: dict[str, Any]) -> None:
    """A wave that exceeds its limit, overlaps another or begins while something is to be tried again ends the play."""
    world = World(hosts, **steering)
    outcomes = st.sampled_from(ENDS)
    for _ in range(data.draw(st.integers(0, 15))):
        settled(world)
        happen(world, data.draw(HAPPENINGS), data, steering)
    world.resume()
    if not world.desired.removed:
        world.change(**{**steering, "suspend": False})
    for _ in range(60):
        planned = settled(world)
        if planned.verdict is not Verdict.PROGRESSING:
            break
        if any(part.state.open for part in world.run.slices):
            world.end_wave(lambda _: data.draw(outcomes))
        else:
            assert planned.wake_at is not None
            world.now = planned.wake_at
    assert world.plan().verdict in RESTS, world.plan()
    assert world.desired.removed or world.observed.causes == ()
    if world.observed.run is not None:
        assert not world.run.open
        assert all(child.status.finished for child in fold(world.observed))


RESTS = {Verdict.CONVERGED, Verdict.FAILED, Verdict.CANCELLED, Verdict.REMOVED}


def settled(world: World) -> Any:
    """It waits for nothing without an alarm or a slice at work."""
    planned = world.settle()
    at_work = world.observed.run is not None and any(part.state.open for part in world.run.slices)
    if planned.verdict in (Verdict.PROGRESSING, Verdict.WAITING) and not at_work:
        assert planned.wake_at is not None, "it hangs"
        assert planned.wake_at > world.now
    return planned


def happen(world: World, what: str, data: st.DataObject, steering: dict[str, Any]) -> None:
    run = world.observed.run
    match what:
        case "end" if run is not None:
            world.end_wave(lambda _: data.draw(st.sampled_from(ENDS)))
        case "wait":
            world.pass_time(data.draw(st.sampled_from([10, 1200, 7200])))
        case "steer" if not world.desired.removed:
            work = {name: steering[name] for name in steering if name == "extraVars"}
            steering.clear()
            steering.update(data.draw(STEERING) | work)
            world.change(**steering)
        case "commit" if not world.desired.removed:
            steering["extraVars"] = {"version": world.desired.record.generation}
            world.change(**steering)
        case "cancel" if run is not None and run.open:
            world.cancel()
        case "remove":
            world.remove()
        case "pause":
            world.pause()
        case "resume":
            world.resume()
        case "give back" if run is not None:
            give_back(world)
        case "ask" if run is not None and not run.open:
            chosen = [child.host for child in fold(world.observed) if child.status is not ChildStatus.SUCCESS]
            some = data.draw(st.lists(st.sampled_from(chosen), unique=True)) if chosen else []
            if some:
                world.retry(*some, key=f"request:{world.runs}")
            else:
                world.ask(CauseKind.REQUESTED, f"request:{world.runs}")
        case _:
            pass


def give_back(world: World) -> None:
    """A slice could not start, and is to be tried again later: its hosts are pending as before."""

    def again(part: Slice) -> Slice:
        later = world.now + timedelta(seconds=1)
        return replace(part, state=SliceState.PLANNED, restarts=part.restarts + 1, not_before=later)

    run = world.run
    given_back = {host for part in run.slices if part.state.open for host in part.hosts}
    slices = tuple(again(part) if part.state.open else part for part in run.slices)
    world.observed = replace(world.observed, run=replace(run, slices=slices))
    world._change(tuple(given_back), status=ChildStatus.PENDING)


@given(worlds(), st.integers(1, 20))
def test_in_every_world_there_is_a_plan_and_a_wave_is_within_its_limit(world: tuple[Any, Any], limit: int) -> None:
    desired, observed = world
    record = desired.record
    desired = replace(desired, record=replace(record, spec=record.spec.model_copy(update={"limit": limit})))
    planned = plan(desired, observed, world[0].record.seen_at)
    assert planned == plan(desired, observed, world[0].record.seen_at)
    for action in planned.actions:
        if isinstance(action, StartWave):
            assert sum(len(part.hosts) for part in action.slices) <= limit


@given(worlds())
def test_in_every_world_what_became_of_a_chain_can_be_said(world: tuple[Any, Any]) -> None:
    _, observed = world
    children = fold(observed)
    assert len({child.host for child in children}) == len(children)
    assert sorted(child.ordinal for child in children) == list(range(1, len(children) + 1))
    run = observed.run
    assert (standing(observed) is None) is (run is None or run.open)
    if run is not None:
        assert {child.host for child in run.children} <= {child.host for child in children}
        if all(child.status.finished for child in children):
            assert conclude(children, run.stop, run.error).status.finished
