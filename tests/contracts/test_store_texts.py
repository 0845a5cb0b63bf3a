"""Text comes back as it was given, and is compared exactly, whatever people and playbooks write."""

from __future__ import annotations

import pytest

from reconciler.core.facts import JobKey
from tests.builders import JOB, hosts, make_host, make_request, make_spec, manifest_record, new_cause
from tests.contracts.stores import World, line

ALIKE = ("Web", "web", "wéb", "web ", "WEB", "wēb")
"""Names that some databases take for one."""


def test_names_that_look_alike_are_different(world: World) -> None:
    chosen = [make_host(name, host_key=f"{name}:22") for name in ALIKE]
    run = world.open_run(chosen)
    world.run_wave(run, "web")

    assert set(world.statuses()) == set(ALIKE)
    assert [child.host for _, child in world.store.host_history("web", None, 10)] == ["web"]
    assert {host: record.success_digest is not None for host, record in world.store.observe(JOB).hosts.items()} == {
        name: name == "web" for name in ALIKE
    }


def test_causes_and_requests_that_look_alike_are_different(world: World) -> None:
    world.store.add_causes([new_cause(f"annotation:{name}") for name in ALIKE])
    asked = [world.store.add_request(make_request(name)) for name in ALIKE]

    assert len(world.store.observe(JOB).causes) == len(ALIKE)
    assert asked == [True] * len(ALIKE)


@pytest.mark.parametrize(
    "text", ["🎉 ünïcödé ≠ ascii", "'; DROP TABLE jobs; --", "%s %(name)s {0} \\n \\\\", "", " \t\n "]
)
def test_a_line_a_reason_and_a_variable_come_back_as_they_were(world: World, text: str) -> None:
    spec = make_spec(extraVars={"text": text, "list": [text, 1, 2.5, None, True, 10**30]})
    run = world.open_run(hosts("web-1"), spec=spec)
    slice_id = world.start(run, "web-1")
    assert world.store.append_logs(slice_id, 1, [line(1, text, "web-1")])
    world.store.add_request(make_request("one", reason=text))

    assert world.log_of(run, "web-1") == [text]
    assert world.run().spec == spec
    record = world.store.manifest(JOB)
    assert record is not None
    assert record.spec == spec
    request = world.store.request("one")
    assert request is not None
    assert request.reason == text


def test_a_line_of_a_megabyte_is_kept_whole(world: World) -> None:
    run = world.open_run(hosts("web-1"))
    slice_id = world.start(run, "web-1")
    text = "ü" * 500_000

    assert world.store.append_logs(slice_id, 1, [line(1, text, "web-1"), line(2, "after it", "web-1")])

    assert world.log_of(run, "web-1") == [text, "after it"]


def test_what_no_database_takes_for_text_does_no_harm(world: World) -> None:
    odd = "a\x00b \ud800 c"
    run = world.open_run(hosts("web-1"))
    slice_id = world.start(run, "web-1")

    world.store.save_manifests([manifest_record(labels={"odd": odd}, requested_at=odd)], [new_cause(odd)])
    assert world.store.append_logs(slice_id, 1, [line(1, odd, "web-1")])

    assert world.log_of(run, "web-1")[0].startswith("a")
    assert world.store.host_history(odd, None, 1) == ()
    assert world.store.run(odd) is None
    assert world.store.manifest(JobKey(odd, odd)) is None


def test_a_servers_inventory_may_be_a_list_of_many(world: World) -> None:
    name = ",".join(f"inventory/group-{number}.yml" for number in range(40))

    for _ in range(2):
        world.store.save_servers("default", name, hosts("web-1"))
