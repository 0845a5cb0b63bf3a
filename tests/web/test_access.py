"""Who gets in, by what, and how far: asked with real requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog

from reconciler.web import Access, WebServer, access, is_loopback
from reconciler.web.access import COOKIE, FAILURES, SESSION
from reconciler.web.guard import SECURITY
from tests.contracts.stores import World
from tests.fakes.clock import FakeClock, RunningClock
from tests.fakes.store import FakeStore
from tests.web.filled import Desk
from tests.web.ports import LOOKS, OPERATES, TOKENS, WRITES, bearer, connected, make_doors, served

API = "/api/v1"
BATCH = {"playbook": "playbooks/patch.yml", "servers": ["web-1", "web-2"]}
MANIFEST = """\
apiVersion: reconciler/v1
kind: BatchJob
metadata: {name: patch-new}
spec: {playbook: playbooks/patch.yml, selector: {tags: [web]}}
"""

READS = [
    *("/batches", "/batches/default/patch-web", "/jobs", "/jobs/{run}", "/jobs/{run}/children", "/jobs/{run}/log"),
    *("/servers", "/servers/default/web-1/jobs", "/tags", "/sources", "/offers", "/requests/request-of-kim"),
    *("/events", "/openapi.json"),
]
OPERATIONS: list[tuple[str, Any]] = [
    ("/batches/default/patch-web/trigger", {"reason": "again"}),
    ("/batches/default/patch-web/retry", {"which": "failed"}),
    ("/batches/default/patch-db/cancel", {}),
]
WRITINGS: list[tuple[str, Any]] = [("/batches?wait=0", BATCH), ("/manifests", {"manifest": MANIFEST})]

EVIL = "http://attacker.example"


@pytest.fixture
def world() -> World:
    """In memory: what is asked here is who gets to it."""
    clock = RunningClock()
    return World(FakeStore(clock), clock)


@pytest.fixture
def clock() -> FakeClock:
    """By which sessions and failures are counted."""
    return FakeClock()


@pytest.fixture
def far(world: World, run: str, desk: Desk, clock: FakeClock) -> Iterator[httpx.Client]:
    """A port that others can reach."""
    given = Access(TOKENS, loopback=False)
    with served(make_doors(world.store, authoring=desk, access=given, clock=clock)) as server:
        with connected(server) as client:
            yield client


@pytest.fixture
def near(world: World, run: str, desk: Desk, clock: FakeClock) -> Iterator[httpx.Client]:
    """A port on loopback."""
    with served(make_doors(world.store, authoring=desk, clock=clock)) as server:
        with connected(server) as client:
            yield client


def state(world: World, desk: Desk) -> tuple[object, ...]:
    """All that a caller could change."""
    asked = [request.id for request in world.store.requests(None, None, 1000)]
    return asked, world.store.last_event(), list(desk.written)


def detail(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


def log_in(client: httpx.Client, token: str = OPERATES) -> httpx.Response:
    return client.post(f"{API}/session", json={"token": token}, headers={"Origin": str(client.base_url)})


# -- nobody ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", READS)
def test_where_others_reach_the_port_nobody_sees_anything_without_a_token(
    far: httpx.Client, run: str, path: str
) -> None:
    answer = far.get(f"{API}{path.format(run=run)}")
    assert detail(answer, 401) == "this needs a token"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "patch" not in answer.text


@pytest.mark.parametrize("path", READS)
def test_a_wrong_token_sees_nothing_wherever_the_port_is(
    far: httpx.Client, near: httpx.Client, run: str, path: str
) -> None:
    for client in (far, near):
        answer = client.get(f"{API}{path.format(run=run)}", headers=bearer("wrong"))
        assert detail(answer, 401) == "this token is nobody's"


@pytest.mark.parametrize("path", [path for path in READS if path != "/events"])
def test_any_token_may_look(far: httpx.Client, run: str, path: str) -> None:
    for token in (LOOKS, OPERATES, WRITES):
        assert far.get(f"{API}{path.format(run=run)}", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(("path", "body"), [*OPERATIONS, *WRITINGS])
@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), {"Authorization": "Bearer"}, {"Authorization": "Basic a2ltOmtpbQ=="}]
)
def test_nobody_changes_anything_anywhere(
    world: World,
    desk: Desk,
    far: httpx.Client,
    near: httpx.Client,
    path: str,
    body: Any,
    headers: Mapping[str, str],
) -> None:
    before = state(world, desk)
    for client in (far, near):
        detail(client.post(f"{API}{path}", json=body, headers=headers), 401)
    assert state(world, desk) == before


@pytest.mark.parametrize(
    ("path", "body", "token"),
    [
        *((path, body, token) for path, body in OPERATIONS for token in (LOOKS, WRITES)),
        *((path, body, token) for path, body in WRITINGS for token in (LOOKS, OPERATES)),
    ],
)
def test_a_token_without_the_scope_changes_nothing(
    world: World, desk: Desk, near: httpx.Client, path: str, body: Any, token: str
) -> None:
    before = state(world, desk)
    said = detail(near.post(f"{API}{path}", json=body, headers=bearer(token)), 403)
    assert "does not have the scope" in said
    assert state(world, desk) == before


def test_who_may_not_does_not_learn_what_there_is_or_what_would_be_valid(near: httpx.Client) -> None:
    answers = [
        near.post(f"{API}{path}", content=body, headers={**bearer(LOOKS), "Content-Type": "application/json"})
        for path in ("/batches/default/patch-web/retry", "/batches/default/no-such-batch/retry", "/batches/x/%00/retry")
        for body in (b"{}", b'{"hosts": 7}', b"{", b"\xff")
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(("path", "body"), OPERATIONS)
def test_a_token_with_the_scope_asks_in_its_own_name(world: World, near: httpx.Client, path: str, body: Any) -> None:
    answer = near.post(f"{API}{path}", json=body, headers=bearer(OPERATES))
    assert answer.status_code == 202, answer.text
    asked = near.get(answer.json()["request"]).json()
    assert (asked["by"], asked["result"]) == ("kim", None)
    assert world.store.request(asked["id"]) is not None


@pytest.mark.parametrize(("path", "body"), WRITINGS)
def test_what_is_written_is_in_the_name_of_the_token(desk: Desk, near: httpx.Client, path: str, body: Any) -> None:
    answer = near.post(f"{API}{path}", json={**body, "message": "as agreed"}, headers=bearer(WRITES))
    assert answer.status_code == 201, answer.text
    ((source, text, by, message),) = desk.written
    assert (source, by, message) == ("default", "robot", "as agreed")
    assert answer.json()["manifest"] == text


# -- what is always free ---------------------------------------------------------------------------------------------
def test_health_is_free_whoever_asks_under_whatever_name(far: httpx.Client, near: httpx.Client) -> None:
    for client in (far, near):
        for path in ("/healthz", "/readyz"):
            for headers in ({}, bearer("wrong"), {"Host": "attacker.example"}):
                assert client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("loopback", [True, False])
def test_metrics_need_a_token_where_the_settings_say_so(loopback: bool) -> None:
    with served(make_doors(access=Access(TOKENS, loopback=loopback))) as server, connected(server) as client:
        assert client.get("/metrics").status_code == 200
    needed = Access(TOKENS, loopback=loopback, metrics_auth=True)
    with served(make_doors(access=needed)) as server, connected(server) as client:
        detail(client.get("/metrics"), 401)
        detail(client.get("/metrics", headers=bearer("wrong")), 401)
        assert client.get("/metrics", headers=bearer(LOOKS)).status_code == 200


def test_without_tokens_the_port_answers_nobody_beyond_loopback() -> None:
    nobody = Access(loopback=False)
    assert nobody.answers_nobody
    assert not Access(loopback=True).answers_nobody
    with served(make_doors(access=nobody)) as server, connected(server) as client:
        detail(client.get(f"{API}/batches"), 401)
        detail(client.get(f"{API}/batches", headers={"Authorization": "Bearer"}), 401)
        assert client.get("/healthz").status_code == 200


# -- too many wrong ones ---------------------------------------------------------------------------------------------
def test_after_too_many_wrong_tokens_none_is_looked_at_for_a_while(near: httpx.Client, clock: FakeClock) -> None:
    for _ in range(FAILURES):
        detail(near.get(f"{API}/batches", headers=bearer("wrong")), 401)
    for token in ("wrong", OPERATES):
        answer = near.get(f"{API}/batches", headers=bearer(token))
        detail(answer, 429)
        assert 0 < int(answer.headers["retry-after"]) <= 60
    detail(log_in(near), 429)
    assert near.get(f"{API}/batches").status_code == 200, "what needs no token is not held up"
    assert near.get("/healthz").status_code == 200
    clock.advance(timedelta(seconds=61))
    assert near.get(f"{API}/batches", headers=bearer(OPERATES)).status_code == 200


def test_wrong_logins_count_too_and_right_ones_end_nothing(near: httpx.Client) -> None:
    for _ in range(FAILURES - 1):
        detail(log_in(near, "wrong"), 401)
        assert log_in(near).status_code == 204
    detail(near.get(f"{API}/batches", headers=bearer("wrong")), 401)
    detail(log_in(near), 429)


def test_what_a_client_says_of_its_address_does_not_count(near: httpx.Client) -> None:
    for number in range(FAILURES):
        near.get(f"{API}/batches", headers={**bearer("wrong"), "X-Forwarded-For": f"10.0.0.{number}"})
    headers = {**bearer("wrong"), "X-Forwarded-For": "10.0.1.1", "Forwarded": "for=10.0.1.2"}
    detail(near.get(f"{API}/batches", headers=headers), 429)


def test_a_page_of_another_site_locks_nobody_out(near: httpx.Client) -> None:
    """Its owner has pointed its name at this machine, and its script sends wrong tokens through a visitor's browser."""
    evil = {**bearer("wrong"), "Host": "attacker.example"}
    for path in (f"{API}/batches", "/metrics"):
        for _ in range(FAILURES // 2):
            assert "not known as" in detail(near.get(path, headers=evil), 421)
    detail(near.get("/metrics", headers=evil), 429)
    assert near.get(f"{API}/batches", headers=bearer(LOOKS)).status_code == 200
    assert log_in(near).status_code == 204


# -- under another name ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "10.0.0.1",
        "",
        "[::2]",
        "127.0.0.1@attacker.example",
    ],
)
@pytest.mark.parametrize("path", [f"{API}/batches", "/metrics", f"{API}/session", f"{API}/events"])
def test_a_page_whose_name_leads_here_reads_nothing(near: httpx.Client, host: str, path: str) -> None:
    answer = near.get(path, headers={"Host": host})
    assert "not known as" in detail(answer, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8440", "127.0.0.1", "127.8.9.1:1", "[::1]", "[::1]:8440"])
def test_the_names_of_loopback_are_ours(near: httpx.Client, host: str) -> None:
    assert near.get(f"{API}/batches", headers={"Host": host}).status_code == 200


def test_names_of_a_proxy_are_those_in_the_settings() -> None:
    named = Access(TOKENS, allowed_hosts=("ops.example.org",))
    with served(make_doors(access=named)) as server, connected(server) as client:
        for host in ("ops.example.org", "Ops.Example.Org:443"):
            assert client.get(f"{API}/batches", headers={"Host": host}).status_code == 200
        detail(client.get(f"{API}/batches", headers={"Host": "example.org"}), 421)


def test_who_has_a_token_may_call_the_port_what_they_like(near: httpx.Client) -> None:
    headers = {**bearer(LOOKS), "Host": "reconciler.internal"}
    assert near.get(f"{API}/batches", headers=headers).status_code == 200


# -- sessions --------------------------------------------------------------------------------------------------------
def test_logging_in_sets_a_cookie_that_no_script_reads(far: httpx.Client) -> None:
    assert far.get(f"{API}/session").json() == {"name": None, "scopes": []}
    answer = log_in(far)
    assert (answer.status_code, answer.content) == (204, b"")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie), cookie
    assert OPERATES not in cookie
    assert far.get(f"{API}/session").json() == {"name": "kim", "scopes": ["read", "operate"]}
    assert far.get(f"{API}/batches").status_code == 200


def test_behind_a_proxy_that_speaks_https_the_cookie_stays_there(far: httpx.Client) -> None:
    headers = {"Origin": "https://ops.example.org", "Host": "ops.example.org"}
    answer = far.post(f"{API}/session", json={"token": OPERATES}, headers=headers)
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_a_session_ends_by_itself_and_by_logging_out(far: httpx.Client, clock: FakeClock) -> None:
    log_in(far)
    clock.advance(SESSION - timedelta(seconds=1))
    assert far.get(f"{API}/batches").status_code == 200
    clock.advance(timedelta(seconds=1))
    detail(far.get(f"{API}/batches"), 401)

    log_in(far)
    taken = dict(far.cookies)
    assert far.delete(f"{API}/session", headers={"Origin": str(far.base_url)}).status_code == 204
    assert COOKIE not in far.cookies
    headers = {"Cookie": f"{COOKIE}={taken[COOKIE]}"}
    detail(far.get(f"{API}/batches", headers=headers), 401)


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": 7}, {"token": "x" * 1001}, {"token": OPERATES, "name": "kim"}, []]
)
def test_a_login_without_a_token_is_none(far: httpx.Client, body: Any) -> None:
    answer = far.post(f"{API}/session", json=body)
    detail(answer, 422)
    assert "set-cookie" not in answer.headers
    assert OPERATES not in answer.text


def test_a_guessed_session_is_nobodys(far: httpx.Client) -> None:
    for value in ("", "x", "a" * 43, "\x7f"):
        detail(far.get(f"{API}/batches", headers={"Cookie": f"{COOKIE}={value}"}), 401)


# -- pages of other sites --------------------------------------------------------------------------------------------
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": EVIL, "Sec-Fetch-Site": "same-origin"},
        {},
    ],
)
@pytest.mark.parametrize(("path", "body"), [*OPERATIONS[:1], *WRITINGS[:1]])
def test_what_another_site_has_a_browser_ask_is_not_done(
    world: World, desk: Desk, near: httpx.Client, headers: Mapping[str, str], path: str, body: Any
) -> None:
    log_in(near, OPERATES if "trigger" in path else WRITES)
    before = state(world, desk)
    detail(near.post(f"{API}{path}", json=body, headers=headers), 403)
    assert state(world, desk) == before


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None])
def test_a_session_asks_by_json_only(world: World, desk: Desk, near: httpx.Client, kind: str | None) -> None:
    log_in(near)
    before = state(world, desk)
    headers = {"Origin": str(near.base_url), **({"Content-Type": kind} if kind else {})}
    detail(near.post(f"{API}/batches/default/patch-web/trigger", content=b"{}", headers=headers), 415)
    assert state(world, desk) == before


@pytest.mark.parametrize("header", ["Origin", "Sec-Fetch-Site"])
def test_our_own_pages_ask_by_their_session(near: httpx.Client, header: str) -> None:
    log_in(near)
    headers = {header: str(near.base_url) if header == "Origin" else "same-origin", **JSON}
    answer = near.post(f"{API}/batches/default/patch-web/trigger", content=b"{}", headers=headers)
    assert answer.status_code == 202, answer.text
    assert near.get(answer.json()["request"]).json()["by"] == "kim"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://ops.example.org", 204),
        ("https://ops.example.org:3000", 403),
        ("https://example.org", 403),
        ("https://ops.example.org.attacker.example", 403),
        ("https://ops.example.org@attacker.example", 403),
    ],
)
def test_a_proxy_that_does_not_pass_the_host_on_is_known_by_its_name(origin: str, status: int) -> None:
    named = Access(TOKENS, allowed_hosts=("ops.example.org",))
    with served(make_doors(access=named)) as server, connected(server) as client:
        answer = client.post(f"{API}/session", json={"token": OPERATES}, headers={"Origin": origin})
        assert answer.status_code == status


@pytest.mark.parametrize("path", ["/session", "/plan?source=default"])
def test_another_site_logs_nobody_in_and_has_nothing_planned(near: httpx.Client, path: str) -> None:
    answer = near.post(f"{API}{path}", json={"token": OPERATES}, headers={"Origin": EVIL})
    detail(answer, 403)
    assert "set-cookie" not in answer.headers


def test_no_other_site_is_told_that_it_may_read(near: httpx.Client) -> None:
    preflight = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answers = [near.get(f"{API}/batches", headers={"Origin": EVIL}), near.options(f"{API}/batches", headers=preflight)]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]


# -- every answer ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("GET", f"{API}/batches", 200),
        ("GET", f"{API}/batches?limit=0", 422),
        ("GET", f"{API}/batches/default/none", 404),
        ("GET", "/nothing", 404),
        ("POST", "/metrics", 405),
        ("POST", f"{API}/batches", 401),
        ("GET", f"{API}/batches/", 404),
    ],
)
def test_every_answer_carries_what_keeps_browsers_careful(
    near: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = near.request(method, path)
    assert answer.status_code == status
    for name, value in SECURITY.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_a_bug_tells_nothing_of_itself(world: World) -> None:
    def bug() -> Any:
        raise RuntimeError("secret of the inside")

    with served(make_doors(world.store, health=bug)) as server, connected(server) as client:
        answer = client.get("/readyz")
        detail(answer, 500)
        assert "secret" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("listen", "near"),
    [
        ("127.0.0.1:8440", True),
        ("127.1.2.3:0", True),
        ("localhost:8440", True),
        ("[::1]:8440", True),
        ("0.0.0.0:8440", False),
        ("[::]:8440", False),
        ("10.0.0.1:8440", False),
        ("ops.example.org:8440", False),
        ("localhost.example.org:8440", False),
    ],
)
def test_what_loopback_is(listen: str, near: bool) -> None:
    assert is_loopback(listen) is near


def test_a_server_is_told_apart_from_its_tokens(server: WebServer) -> None:
    assert LOOKS not in repr(TOKENS)
    assert TOKENS[0].digest not in repr(TOKENS)


# -- bounds ----------------------------------------------------------------------------------------------------------
def test_what_is_remembered_of_callers_has_an_end(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MOST_SESSIONS", 3)
    monkeypatch.setattr(access, "MOST_ADDRESSES", 3)
    sessions, failures = access.Sessions(clock.monotonic), access.Failures(clock.monotonic)
    names = [sessions.begin(TOKENS[0]) for _ in range(5)]
    assert [sessions.whose(name) is not None for name in names] == [False, False, True, True, True]
    for number in range(5):
        for _ in range(FAILURES):
            failures.add(f"10.0.0.{number}")
    assert [failures.held_for(f"10.0.0.{number}") > 0 for number in range(5)] == [False, False, True, True, True]


def test_a_network_of_ipv6_is_one_client() -> None:
    def address(host: str) -> str:
        return access.address_of((host, 1))

    assert address("2001:db8:1:2::3") == address("2001:db8:1:2:ffff::9")
    assert address("2001:db8:1:3::3") != address("2001:db8:1:2::3")
    assert address("::ffff:10.0.0.1") == "10.0.0.1"
    assert access.address_of(None) == ""


def test_wrong_tokens_are_told_of_in_the_log_and_never_what_they_were(near: httpx.Client) -> None:
    with structlog.testing.capture_logs() as lines:
        near.get(f"{API}/batches", headers=bearer("guessed"))
    assert [(line["event"], line["address"]) for line in lines] == [("wrong_token", "127.0.0.1")]
    assert "guessed" not in str(lines)
