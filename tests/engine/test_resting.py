"""Who is asked again when there is room, by what the last look at each job came to."""

from __future__ import annotations

from reconciler.core.facts import JobKey
from reconciler.engine.reconcile import Look
from reconciler.engine.resting import NEXT, Prospects
from tests.engine.worlds import World

SLOTS = Look(again=30.0, waits=True, behind="default/huge")
HOSTS = Look(again=30.0, waits=True)


def keys(count: int) -> list[JobKey]:
    return [JobKey("default", f"job-{number:03}") for number in range(count)]


def waiting(*looks: tuple[JobKey, Look]) -> Prospects:
    world = World()
    prospects = Prospects(world.store, world.executor, world.clock)
    for key, look in looks:
        prospects.looking(key)
        prospects.looked(key, look)
    return prospects


def test_of_hundreds_that_wait_for_slots_only_those_that_waited_longest_are_asked() -> None:
    many = keys(200)
    prospects = waiting(*((key, SLOTS) for key in many))
    assert prospects.may_go_on() == many[:NEXT]
    prospects.looking(many[0])
    prospects.looked(many[0], Look())
    assert prospects.may_go_on() == many[1 : NEXT + 1], "one that got in makes the next be asked"


def test_who_is_refused_again_keeps_its_place() -> None:
    many = keys(20)
    prospects = waiting(*((key, SLOTS) for key in many))
    prospects.looking(many[0])
    prospects.looked(many[0], SLOTS)
    assert prospects.may_go_on()[0] == many[0]


def test_all_that_wait_for_hosts_are_asked_and_who_is_being_refused_is_not_overlooked() -> None:
    many = keys(60)
    prospects = waiting(*((key, HOSTS) for key in many[:30]), *((key, SLOTS) for key in many[30:]))
    prospects.looking(many[59])
    assert set(prospects.may_go_on()) == {*many[:30], *many[30 : 30 + NEXT], many[59]}
