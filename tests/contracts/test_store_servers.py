"""What people look up of servers, on every store: tags and texts are compared exactly, whatever they have in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.facts import ChildStatus, JobKey
from reconciler.ports import PlaybookResult, ServerRow, ServersWanted
from tests.builders import (
    COMMIT,
    COMMIT_REVISION,
    JOB,
    NOON,
    hosts,
    make_host,
    make_new_run,
    numbered_hosts,
    outcome,
)
from tests.contracts.stores import World

EVERY_SERVER = ServersWanted()
ODD = ("100%", "a_b", "a\\b", "it's", 'say "x"', "ünïcödé", "🎉", "a,b", "a b", "[x]", "{x}", "$x", "%s", "a/b", "^x")
"""Texts that some query language takes for more than they are."""
WEB_1, WEB_2, WEB_3 = "web-1", "web-2", "web-3"


# -- telling ---------------------------------------------------------------------------------------------------------
def served(world: World, wanted: ServersWanted = EVERY_SERVER) -> list[str]:
    return [row.name for row in world.store.servers(wanted, None, 100)]


def list_servers(world: World) -> Sequence[ServerRow]:
    return world.store.servers(EVERY_SERVER, None, 100)


def the_server(world: World, name: str) -> ServerRow:
    return world.store.servers(ServersWanted(names=frozenset({name})), None, 1)[0]


# -- which, and in what order ----
def test_servers_come_by_name_source_and_inventory_a_page_at_a_time(world: World) -> None:
    world.store.save_servers("lab", "b.yml", hosts("b", "A", "a-b"))
    world.store.save_servers("default", "b.yml", hosts("b", "ab"))
    world.store.save_servers("default", "a.yml", hosts("b", "ä"))
    places = [("A", "lab", "b.yml"), ("a-b", "lab", "b.yml"), ("ab", "default", "b.yml"), ("b", "default", "a.yml")]
    places += [("b", "default", "b.yml"), ("b", "lab", "b.yml"), ("ä", "default", "a.yml")]

    found: list[ServerRow] = []
    while page := world.store.servers(EVERY_SERVER, found[-1].mark if found else None, 2):
        assert len(page) <= 2
        found.extend(page)

    assert [(row.name, row.source, row.inventory) for row in found] == places
    assert list(world.store.servers(EVERY_SERVER, None, 100)) == found


def test_servers_come_in_the_order_in_which_people_count(world: World) -> None:
    names = ["2", "10", "rack-1-web-10", "rack-2-web-1", "web-02", "web-2", "Web-3", "web-10", "web-10-b", "webs"]
    world.store.save_servers("default", "hosts.yml", hosts(*sorted(names)))

    found: list[ServerRow] = []
    while page := world.store.servers(EVERY_SERVER, found[-1].mark if found else None, 3):
        found.extend(page)

    assert [row.name for row in found] == names


def test_servers_that_come_meanwhile_move_no_page(world: World) -> None:
    world.store.save_servers("default", "hosts.yml", hosts("b", "c", "d"))
    first = world.store.servers(EVERY_SERVER, None, 2)

    world.store.save_servers("default", "hosts.yml", hosts("a", "cc"))

    assert [row.name for row in world.store.servers(EVERY_SERVER, first[-1].mark, 10)] == ["cc", "d"]


def test_a_server_is_as_its_inventory_has_it(world: World) -> None:
    host = make_host(WEB_1, tags=frozenset({"web", "eu"}), groups=frozenset({"prod", "all-web"}))
    world.store.save_servers("default", "hosts.yml", [host])
    world.clock.advance(timedelta(hours=2))
    moved = replace(host, address="10.0.0.1", tags=frozenset({"web", "db=1"}), groups=frozenset({"prod"}))
    world.store.save_servers("default", "hosts.yml", [moved])

    (row,) = world.store.servers(EVERY_SERVER, None, 10)

    assert (row.address, row.tags, row.groups) == ("10.0.0.1", ("db=1", "web"), ("prod",))
    assert (row.first_seen, row.last_seen) == (NOON, NOON + timedelta(hours=2))
    assert (row.last, row.last_key) == (None, None)
    assert served(world, ServersWanted(tags=frozenset({"eu"}))) == []
    assert served(world, ServersWanted(group="all-web")) == []
    assert served(world, ServersWanted(tags=frozenset({"db=1"}), group="prod", text="10.0")) == [WEB_1]


def test_a_server_shows_what_was_done_to_it_last(world: World) -> None:
    world.run_to_success("1")
    other = JobKey("default", "patch-db")
    run = world.open_run(hosts(WEB_2, WEB_3), key=other)
    world.run_wave(run, WEB_2, result=PlaybookResult((outcome(WEB_2, ChildStatus.FAILED),)))

    last = {row.name: (row.last_key, row.last.status if row.last else None) for row in list_servers(world)}

    assert last == {
        WEB_1: (JOB, ChildStatus.SUCCESS),
        WEB_2: (other, ChildStatus.FAILED),
        WEB_3: (other, ChildStatus.PENDING),
    }
    assert the_server(world, WEB_2).last == world.child(WEB_2, other)


def test_a_server_shows_the_commit_of_what_was_done_to_it(world: World) -> None:
    world.accept()
    new = make_new_run(world.cause(), hosts(WEB_1), commit=COMMIT, revision=COMMIT_REVISION)
    assert world.store.open_run(new)

    assert the_server(world, WEB_1).last == world.child(WEB_1)
    assert world.child(WEB_1).commit == COMMIT


def test_what_was_done_to_another_of_the_same_name_is_not_its_own(world: World) -> None:
    world.store.save_servers("lab", "inventory/hosts.yml", hosts(WEB_1))
    world.store.save_servers("default", "other.yml", hosts(WEB_1))
    world.run_to_success("1")

    assert {(row.source, row.inventory): row.last is not None for row in list_servers(world) if row.name == WEB_1} == {
        ("default", "inventory/hosts.yml"): True,
        ("default", "other.yml"): False,
        ("lab", "inventory/hosts.yml"): False,
    }


def test_filters_bound_servers_and_what_is_left_out_does_not(world: World) -> None:
    def host(name: str, *tags: str, group: str = "all-of-them") -> None:
        made = make_host(name, tags=frozenset(tags), groups=frozenset({group}))
        world.store.save_servers("lab" if name.startswith("lab") else "default", "hosts.yml", [made])

    host("web-1", "web", "eu")
    host("web-2", "web", "us", group="prod")
    host("lab-1", "web", "eu", "canary", group="prod")

    assert served(world, ServersWanted(source="lab")) == ["lab-1"]
    assert served(world, ServersWanted(tags=frozenset({"web"}))) == ["lab-1", "web-1", "web-2"]
    assert served(world, ServersWanted(tags=frozenset({"web", "eu"}))) == ["lab-1", "web-1"]
    assert served(world, ServersWanted(tags=frozenset({"web", "nothing"}))) == []
    assert served(world, ServersWanted(group="prod")) == ["lab-1", "web-2"]
    assert served(world, ServersWanted(group="prod", tags=frozenset({"eu"}))) == ["lab-1"]
    assert served(world, ServersWanted(text="WEB-")) == ["web-1", "web-2"]
    assert served(world, ServersWanted(text="-2.EXAMPLE")) == ["web-2"]
    assert served(world, ServersWanted(names=frozenset({"web-2", "lab-1", "nobody"}))) == ["lab-1", "web-2"]
    assert served(world, ServersWanted(names=frozenset({"web-2"}), source="lab")) == []
    tags = {"web": 3, "eu": 2, "us": 1, "canary": 1, "group:all-of-them": 1, "group:prod": 2}
    assert world.store.server_tags(None) == tags
    assert world.store.server_tags("lab") == {"web": 1, "eu": 1, "canary": 1, "group:prod": 1}
    assert world.store.server_tags("nowhere") == {}


def test_many_servers_are_looked_up_by_name_in_their_order(world: World) -> None:
    world.store.save_servers("default", "hosts.yml", numbered_hosts(1200))
    in_order = [f"web-{number}" for number in range(1, 1200, 2)]
    names = frozenset(in_order)

    page = world.store.servers(ServersWanted(names=names), None, 550)

    assert [row.name for row in page] == in_order[:550]
    rest = world.store.servers(ServersWanted(names=names), page[-1].mark, 550)
    assert [row.name for row in rest] == in_order[550:]


@pytest.mark.parametrize("tag", ODD)
def test_a_tag_is_compared_exactly(world: World, tag: str) -> None:
    alike = {tag.upper(), tag.lower(), tag + " ", f"{tag}, more", f'"{tag}"', "aXb", "100 of them"} - {tag}
    world.store.save_servers("default", "hosts.yml", [make_host("it", tags=frozenset({tag, "x"}))])
    world.store.save_servers("default", "hosts.yml", [make_host("alike", tags=frozenset(alike))])

    assert served(world, ServersWanted(tags=frozenset({tag}))) == ["it"]
    assert served(world, ServersWanted(tags=frozenset({tag, "x"}))) == ["it"]
    assert world.store.server_tags(None) == dict.fromkeys(alike | {tag, "x"}, 1)
    assert set(the_server(world, "it").tags) == {tag, "x"}


def test_what_no_database_takes_for_text_finds_nothing_and_breaks_nothing(world: World) -> None:
    world.store.save_servers("default", "hosts.yml", [make_host(WEB_1, tags=frozenset({"a\x00b", "web"}))])
    odd = "\ud800"

    assert served(world, ServersWanted(tags=frozenset({odd}))) == []
    assert served(world, ServersWanted(text=odd)) == []
    assert served(world, ServersWanted(source=odd, group=odd, names=frozenset({odd}))) == []
    assert world.store.server_tags(None) == {"ab": 1, "web": 1}


@pytest.mark.parametrize("text", ODD)
def test_text_is_looked_for_in_names_as_it_is(world: World, text: str) -> None:
    world.store.save_servers("default", "hosts.yml", hosts("plain", "aXb", "100 of them"))
    world.store.save_servers("default", "hosts.yml", [make_host(f"odd-{text}", address="10.0.0.1", host_key="odd")])

    assert served(world, ServersWanted(text=text)) == [f"odd-{text}"]


def test_a_tag_that_is_too_long_to_be_looked_for_does_no_harm(world: World) -> None:
    long = "t" * 300
    world.store.save_servers("default", "hosts.yml", [make_host(WEB_1, tags=frozenset({long, "web"}))])

    assert the_server(world, WEB_1).tags == (long, "web")
    assert world.store.server_tags(None) == {"web": 1}
    assert served(world, ServersWanted(tags=frozenset({long}))) == []


def test_names_that_look_alike_are_different_servers(world: World) -> None:
    names = ("Web", "web", "wéb", "web ", "WEB")
    world.store.save_servers("default", "hosts.yml", [make_host(name, host_key=name) for name in names])

    assert served(world) == sorted(names)
    assert served(world, ServersWanted(names=frozenset({"web"}))) == ["web"]
    assert served(world, ServersWanted(text="web")) == ["WEB", "Web", "web", "web "]
