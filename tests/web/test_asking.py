"""What is asked for by the API: written down, or refused with the reason; and what is sent wrongly."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from reconciler.core.facts import JobKey
from reconciler.ports import Request
from reconciler.web import WebServer
from reconciler.web.guard import MOST_BODY, MOST_OF_LOGIN
from tests.acceptance.workspace import wait_for
from tests.contracts.stores import World
from tests.fakes.clock import RunningClock
from tests.fakes.store import FakeStore
from tests.web.filled import FAILED, HOSTILE, RUNNING, Desk, fill
from tests.web.ports import OPERATES, WRITES, bearer, connected, make_doors, served

API = "/api/v1"


def ask(client: httpx.Client, path: str, body: Any = None, token: str = OPERATES) -> httpx.Response:
    return client.post(f"{API}{path}", json=body, headers=bearer(token))


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert set(found) <= {"type", "title", "status", "detail", "reason", "hint", "errors"}
    return found


def pending(world: World, answer: httpx.Response) -> Request:
    assert answer.status_code == 202, answer.text
    request = world.store.request(answer.json()["id"])
    assert request is not None
    assert request in world.store.pending_requests(request.key)
    return request


# -- trigger, retry, cancel ------------------------------------------------------------------------------------------
def test_a_run_is_asked_for(client: httpx.Client, world: World, run: str) -> None:
    request = pending(world, ask(client, f"/batches/{FAILED}/trigger", {"reason": HOSTILE}))
    assert (request.kind, request.key, request.run, request.by) == ("trigger", FAILED, None, "kim")
    assert request.reason == HOSTILE


def test_nothing_needs_to_be_said_beside_what_is_asked(client: httpx.Client, world: World, run: str) -> None:
    answer = client.post(f"{API}/batches/{FAILED}/trigger", headers=bearer(OPERATES))
    assert pending(world, answer).reason == ""


def test_hosts_of_the_latest_run_are_tried_again(client: httpx.Client, world: World, run: str) -> None:
    request = pending(world, ask(client, f"/batches/{FAILED}/retry", {"hosts": ["web-2"], "revision": "same"}))
    assert (request.kind, request.run) == ("retry", run)
    assert dict(request.arguments) == {"hosts": ["web-2"], "which": None, "revision": "same"}
    request = pending(world, ask(client, f"/batches/{FAILED}/retry", {"which": "failed"}))
    assert dict(request.arguments) == {"hosts": [], "which": "failed", "revision": None}


def test_the_run_in_progress_is_asked_to_end(client: httpx.Client, world: World, run: str) -> None:
    request = pending(world, ask(client, f"/batches/{RUNNING}/cancel", {"reason": "wrong hosts"}))
    assert (request.kind, request.run) == ("cancel", world.run(RUNNING).job_id)


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        (f"/batches/{FAILED}/cancel", {}, "no run in progress"),
        (f"/batches/{RUNNING}/retry", {}, "still in progress"),
        (f"/batches/{FAILED}/retry", {"hosts": ["web-1"]}, "web-1 succeeded"),
        (f"/batches/{FAILED}/retry", {"hosts": ["web-9"]}, "has no host web-9"),
        (f"/batches/{FAILED}/retry", {"which": "unknown"}, "no host is unknown"),
        ("/batches/network/patch-web/retry", {}, "has not run yet"),
        ("/batches/default/patch-old/trigger", {}, "no valid manifest"),
        ("/batches/default/patch-old/retry", {}, "no valid manifest"),
    ],
)
def test_what_can_not_be_is_refused_with_the_reason(
    client: httpx.Client, world: World, run: str, path: str, body: Any, why: str
) -> None:
    before = world.store.requests(None, None, 100)
    found = problem(ask(client, path, body), 409)
    assert why in found["detail"]
    assert world.store.requests(None, None, 100) == before


def test_what_came_of_a_request_is_told(client: httpx.Client, world: World, run: str) -> None:
    request = pending(world, ask(client, f"/batches/{FAILED}/trigger"))
    where = f"{API}/requests/{request.id}"
    assert client.get(where).json()["result"] is None
    world.store.refuse_request(request, "refused: the manifest is gone from its source")
    told = client.get(where).json()
    assert told["result"].startswith("refused: ")
    assert (told["kind"], told["source"], told["name"]) == ("trigger", "default", "patch-web")
    assert told["answeredAt"] is not None
    problem(client.get(f"{API}/requests/nothing"), 404)


# -- composing -------------------------------------------------------------------------------------------------------
BATCH: dict[str, Any] = {
    "playbook": "playbooks/patch.yml",
    "servers": ["web-1", "web-2"],
    "execution_strategy": "sequential",
    "concurrent_limit": 3,
    "stop_on_failure": True,
}


def test_a_batch_as_job_apis_have_it_becomes_a_manifest(client: httpx.Client, desk: Desk, run: str) -> None:
    answer = ask(client, "/batches?wait=0", BATCH, WRITES)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["source"], made["name"], made["path"]) == ("default", "patch-2-hosts", "jobs/patch-2-hosts.yaml")
    assert made["batch"] == answer.headers["location"] == f"{API}/batches/default/patch-2-hosts"
    assert made["commit"]["subject"]
    assert (made["job"], made["children"]) == (None, None), "its run is not opened yet"
    assert "strategy: sequential" in made["manifest"]
    assert "limit: 3" in made["manifest"]
    ((_, text, _, _),) = desk.written
    assert text == made["manifest"]


def test_a_name_that_nobody_chose_gives_way_to_one_that_is_not_read_yet(
    client: httpx.Client, desk: Desk, run: str
) -> None:
    """Asked twice within a moment, it is two batches; a name that was chosen is refused instead."""
    names = [ask(client, "/batches?wait=0", BATCH, WRITES).json()["name"] for _ in range(3)]
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]
    assert problem(ask(client, "/batches", {**BATCH, "name": names[1]}, WRITES), 409)["reason"] == "NameTaken"
    assert len(desk.written) == 3


NEW = JobKey("default", "patch-2-hosts")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/batches?wait=30", {**BATCH, "name": NEW.name}),
        (
            "/manifests?wait=30",
            {
                "manifest": "apiVersion: reconciler/v1\nkind: BatchJob\nmetadata: {name: patch-2-hosts}\n"
                "spec: {playbook: playbooks/patch.yml, selector: {tags: [web]}}\n"
            },
        ),
    ],
)
def test_who_waits_is_told_the_jobs_and_not_those_of_a_removed_batch_of_this_name(
    client: httpx.Client, world: World, desk: Desk, run: str, path: str, body: Any
) -> None:
    past = world.run_to_success("1", NEW)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(client, path, body, WRITES).json()))
    asking.start()
    wait_for(lambda: desk.written, "the manifest")
    opened = world.open_run(key=NEW, cause="2")
    asking.join(timeout=60)
    (made,) = answers
    assert made["job"] == f"{API}/jobs/{opened}" != f"{API}/jobs/{past}"
    assert client.get(made["job"]).json()["kind"] == "run"
    assert len(client.get(made["children"]).json()["items"]) == 3


def test_who_does_not_wait_is_not_told_the_jobs_of_a_removed_batch(
    client: httpx.Client, world: World, run: str
) -> None:
    world.run_to_success("1", NEW)
    made = ask(client, "/batches?wait=0", {**BATCH, "name": NEW.name}, WRITES).json()
    assert (made["job"], made["children"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**BATCH, "servers": []}, "servers"),
        ({**BATCH, "concurrent_limit": 21}, "concurrent_limit"),
        ({**BATCH, "concurrent_limit": 0}, "concurrent_limit"),
        ({**BATCH, "execution_strategy": "canary"}, "execution_strategy"),
        ({**BATCH, "playbook": "../outside.yml"}, "playbook"),
        ({**BATCH, "name": "No Label"}, "name"),
        ({**BATCH, "stop": True}, "stop"),
        ({**BATCH, "servers": ["web-1", 7]}, "servers.1"),
        ({"servers": ["web-1"]}, "playbook"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said_of_its_field(
    client: httpx.Client, desk: Desk, run: str, body: Any, field: str
) -> None:
    found = problem(ask(client, "/batches", body, WRITES), 422)
    assert [error["field"] for error in found["errors"]] == [field]
    assert found["errors"][0]["place"] == "body"
    assert desk.written == []


def test_a_source_that_takes_nothing_or_is_not_there_says_so(client: httpx.Client, desk: Desk, run: str) -> None:
    assert problem(ask(client, "/batches", {**BATCH, "source": "network"}, WRITES), 409)["reason"] == "NotWritable"
    assert problem(ask(client, "/batches", {**BATCH, "source": "nowhere"}, WRITES), 404)["reason"] == "SourceUnknown"
    assert problem(ask(client, "/batches", {**BATCH, "name": "patch-web"}, WRITES), 409)["reason"] == "NameTaken"
    assert desk.written == []


MANIFEST = """\
apiVersion: reconciler/v1
kind: BatchJob
metadata: {name: patch-new}
spec: {playbook: playbooks/patch.yml, selector: {tags: [web]}}
"""


def test_a_manifest_is_planned_and_nothing_kept(client: httpx.Client, desk: Desk) -> None:
    for text in (MANIFEST, json.dumps({"apiVersion": "reconciler/v1", "kind": "BatchJob"} | FIELDS)):
        answer = client.post(f"{API}/plan", params={"source": "default"}, content=text.encode())
        assert answer.status_code == 200, answer.text
        planned = answer.json()
        assert (planned["name"], planned["hosts"], planned["problems"]) == ("patch-new", 1, [])
        assert planned["waves"] == [[{"name": "web-1", "address": "10.0.0.1"}]]
    assert desk.written == []


FIELDS = {
    "metadata": {"name": "patch-new"},
    "spec": {"playbook": "playbooks/patch.yml", "selector": {"tags": ["web"]}},
}


@pytest.mark.parametrize("text", ["", "{", "a: [", "kind: BatchJob", "\x00", HOSTILE, MANIFEST + "---\n" + MANIFEST])
def test_a_manifest_that_is_wrong_has_its_problems_told(client: httpx.Client, text: str) -> None:
    planned = client.post(f"{API}/plan", params={"source": "default"}, content=text.encode()).json()
    assert planned["problems"]
    assert all(each["line"] >= 1 and each["message"] for each in planned["problems"])


def test_what_is_no_text_is_no_manifest(client: httpx.Client) -> None:
    problem(client.post(f"{API}/plan", params={"source": "default"}, content=b"\xff\xfe"), 400)


def test_a_manifest_that_is_wrong_is_not_written(client: httpx.Client, desk: Desk) -> None:
    found = problem(ask(client, "/manifests", {"manifest": MANIFEST + "  limt: 3\n"}, WRITES), 422)
    assert found["errors"][0]["field"] == "manifest"
    assert desk.written == []


# -- what is sent wrongly --------------------------------------------------------------------------------------------
ODD_IDS = [
    *("../../etc/passwd", "..%2f", "%00", "%0a", "a/b", "'; DROP TABLE jobs; --", '" OR 1=1', "${jndi:x}", "{{7*7}}"),
    *("\u202e", "x" * 5000, "-1", "null", "*", "%", "_", "default\u0000", "\U0001f98a", "web%2F1", "ÿ"),
]


@pytest.mark.parametrize(
    "path",
    [
        *("/batches/{}/patch-web", "/batches/default/{}", "/jobs/{}", "/jobs/{}/children", "/jobs/{}/log"),
        *("/jobs/{}/attempts", "/servers/default/{}/jobs", "/servers/{}/web-1/jobs", "/requests/{}"),
    ],
)
def test_odd_names_are_unknown_and_nothing_else(filled: httpx.Client, path: str) -> None:
    for odd in ODD_IDS:
        answer = filled.get(f"{API}{path.format(quote(odd, safe=''))}")
        assert answer.status_code in (404, 422), odd
        problem(answer, answer.status_code)


ODD_PAGES = [
    *("limit=0", "limit=-1", "limit=201", "limit=1e9", "limit=", "limit=ten", "limit=99999999999999999999999999"),
    *("cursor=", "cursor=x", "cursor=W10", "cursor=%00", "cursor=" + "A" * 3000, "cursor=é", "cursor=bnVsbA"),
    *("cursor=WzEsMiwzXQ", "cursor=WyJ4XHUwMDAwIiwieSIsInoiXQ", "cursor=" + "W1tbW1tbW1tb" * 100),
    *("cursor=WzFlOTk5XQ", "cursor=WzIxNDc0ODM2NDhd"),
]


@pytest.mark.parametrize("path", ["/batches", "/jobs", "/servers", "/jobs/{run}/children"])
def test_odd_pages_are_refused(filled: httpx.Client, path: str) -> None:
    run = filled.get(f"{API}/jobs").json()["items"][0]["id"]
    for query in ODD_PAGES:
        found = problem(filled.get(f"{API}{path.format(run=run)}?{query}"), 422)
        assert [error["field"] for error in found["errors"]] == [query.partition("=")[0]]


@pytest.mark.parametrize(
    ("path", "name", "there"),
    [
        ("/jobs?stauts=failed", "stauts", "source, name, status, limit, cursor"),
        ("/servers?q=web-1", "q", "source, tag, group, text, search, limit, cursor"),
        ("/batches?text=a&page=2", "page", "source, phase, text, limit, cursor"),
        ("/sources?source=default", "source", "none here"),
        ("/events?batch=patch-web", "batch", "source, name"),
        ("/session?" + "x" * 5000, "x" * 100, "none here"),
        ("/batches?Source=default", "Source", "source"),
    ],
)
def test_a_parameter_that_nobody_looks_at_is_refused_and_those_there_are_listed(
    filled: httpx.Client, path: str, name: str, there: str
) -> None:
    found = problem(filled.get(f"{API}{path}"), 422)
    (error,) = found["errors"]
    assert (error["field"], error["place"]) == (name, "query")
    assert f"this is no parameter: there is {there}" in found["detail"]


def test_a_parameter_that_nobody_looks_at_is_refused_of_a_change_too(filled: httpx.Client) -> None:
    problem(ask(filled, f"/batches/{FAILED}/trigger?reason=again"), 422)
    problem(filled.post(f"{API}/plan?sorce=default", content=MANIFEST.encode()), 422)
    problem(ask(filled, "/batches?source=default", BATCH, WRITES), 422)


def test_servers_are_found_by_what_is_searched(filled: httpx.Client) -> None:
    for name in ("text", "search"):
        found = filled.get(f"{API}/servers", params={name: "WEB-2"}).json()["items"]
        assert [server["name"] for server in found] == ["web-2"]
    problem(filled.get(f"{API}/servers", params={"text": "a", "search": "b"}), 422)


def test_a_page_beyond_the_last_is_empty(filled: httpx.Client) -> None:
    cursor = "WzIxNDc0ODM2NDdd"  # [2147483647]
    run = filled.get(f"{API}/jobs").json()["items"][0]["id"]
    assert filled.get(f"{API}/jobs/{run}/children", params={"cursor": cursor}).json() == {"items": [], "next": None}
    log = filled.get(f"{API}/jobs/{run}/log", params={"after": 2**53 - 1})
    assert log.json()["items"] == []
    problem(filled.get(f"{API}/jobs/{run}/log", params={"after": 2**53}), 422)
    assert filled.get(f"{API}/jobs/{run}/log", params={"attempt": 2**31 - 1}).json()["items"] == []
    problem(filled.get(f"{API}/jobs/{run}/log", params={"attempt": 2**31}), 422)


@pytest.mark.parametrize("query", ["phase=Nothing", "phase=failed", "text=%00", "source=%0a", "text=" + "x" * 300])
def test_odd_filters_are_refused(filled: httpx.Client, query: str) -> None:
    problem(filled.get(f"{API}/batches?{query}"), 422)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[]", 422),
        (b'"x"', 422),
        (b"\xff", 400),
        (b'{"reason": "\\ud800"}', 422),
        (b'{"reason": ' + b"[" * 100_000, 400),
        (b'{"reason": 1' + b"0" * 5000 + b"}", 400),
        (b'{"reason": "' + b"x" * 4001 + b'"}', 422),
        (b'{"reason": NaN}', 422),
        (b'{"why": "x"}', 422),
    ],
)
def test_odd_bodies_are_refused(filled: httpx.Client, body: bytes, status: int) -> None:
    headers = {**bearer(OPERATES), "Content-Type": "application/json"}
    found = problem(filled.post(f"{API}/batches/{FAILED}/trigger", content=body, headers=headers), status)
    assert len(json.dumps(found)) < 2000, "what was sent is not sent back"


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(filled: httpx.Client) -> None:
    headers = {**bearer(OPERATES), "Content-Type": "application/json"}
    path = f"{API}/batches/{FAILED}/trigger"
    problem(filled.post(path, content=b"x" * (MOST_BODY + 1), headers=headers), 413)

    def parts() -> Any:
        for _ in range(MOST_BODY // 65536 + 1):
            yield b"x" * 65536

    problem(filled.post(path, content=parts(), headers=headers), 413)
    login = {"Content-Type": "application/json"}
    problem(filled.post(f"{API}/session", content=b"x" * (MOST_OF_LOGIN + 1), headers=login), 413)


def test_the_largest_manifest_fits(filled: httpx.Client) -> None:
    text = MANIFEST + "#" * (1024 * 1024 - len(MANIFEST))
    assert filled.post(f"{API}/plan", params={"source": "default"}, content=text.encode()).json()["problems"] == []


def test_a_database_that_is_away_is_said_and_when_to_come_again() -> None:
    clock = RunningClock()
    store = FakeStore(clock)
    store.away = True
    with served(make_doors(store, authoring=Desk())) as server, connected(server) as client:
        for path in ("/batches", "/jobs", "/servers", "/sources", "/events", "/jobs/x", "/batches/a/b"):
            answer = client.get(f"{API}{path}")
            assert problem(answer, 503)["reason"] == "StoreUnavailable"
            assert answer.headers["retry-after"] == "5"
        assert client.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def filled_server() -> Any:
    clock = RunningClock()
    world = World(FakeStore(clock), clock)
    fill(world)
    with served(make_doors(world.store, authoring=Desk())) as server:
        yield server


@pytest.fixture
def filled(filled_server: WebServer) -> Any:
    with connected(filled_server) as client:
        yield client
