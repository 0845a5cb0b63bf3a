"""Webhooks, as the git servers send them: real requests, real signatures."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from urllib.parse import quote

import httpx
import pytest

from reconciler.web import Hook, WebServer, build_web
from reconciler.web.hooks import LARGEST
from tests.web.ports import make_doors

SECRET = b"a long secret: \xc3\xa4"
BODY = b'{"ref": "refs/heads/main", "repository": {"name": "fleet"}}'
PATH = "/hooks/git/fleet"

Sign = Callable[[bytes, bytes], Mapping[bytes, bytes]]


def hex_of(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, body, sha256).hexdigest().encode()


def github(secret: bytes, body: bytes) -> Mapping[bytes, bytes]:
    return {b"X-Hub-Signature-256": b"sha256=" + hex_of(secret, body)}


def gitea(secret: bytes, body: bytes) -> Mapping[bytes, bytes]:
    return {b"X-Gitea-Signature": hex_of(secret, body)}


def gitlab(secret: bytes, body: bytes) -> Mapping[bytes, bytes]:
    return {b"X-Gitlab-Token": secret}


forges = pytest.mark.parametrize("sign", [github, gitea, gitlab])


@pytest.fixture
def pokes() -> list[str]:
    return []


@pytest.fixture
def server(pokes: list[str]) -> Iterator[WebServer]:
    def poke(name: str) -> bool:
        pokes.append(name)
        return True

    hooks = {
        "fleet": Hook(SECRET, partial(poke, "fleet")),
        "network": Hook(b"another secret", partial(poke, "network")),
        "open": Hook(b"", partial(poke, "open")),
        "unread": Hook(SECRET, lambda: False),
    }
    server = WebServer(build_web(make_doors(hooks=hooks)), "127.0.0.1:0")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: WebServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30, trust_env=False) as client:
        yield client


def problem(answer: httpx.Response, status: int) -> str:
    """Its detail, a line of plain text."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert set(said) == {"type", "title", "status", "detail"}
    assert said["status"] == status
    assert said["type"] == "about:blank"
    assert "\n" not in said["detail"]
    return str(said["detail"])


# -- signatures ------------------------------------------------------------------------------------------------------
def test_where_nobody_reads_the_source_the_git_server_is_told_so(client: httpx.Client) -> None:
    answer = client.post("/hooks/git/unread", content=BODY, headers=github(SECRET, BODY))
    assert "standby" in problem(answer, 503)


@forges
def test_who_has_the_secret_pokes_the_source(client: httpx.Client, pokes: list[str], sign: Sign) -> None:
    answer = client.post(PATH, content=BODY, headers=sign(SECRET, BODY))
    assert answer.status_code == 202
    assert answer.json() == {"source": "fleet", "accepted": True}
    assert pokes == ["fleet"]


@forges
@pytest.mark.parametrize("secret", [b"a guess", b"another secret", b""])
def test_who_has_another_secret_pokes_nothing_and_learns_what_is_expected(
    client: httpx.Client, pokes: list[str], sign: Sign, secret: bytes
) -> None:
    detail = problem(client.post(PATH, content=BODY, headers=sign(secret, BODY)), 401)
    for header in ("X-Hub-Signature-256", "X-Gitea-Signature", "X-Gitlab-Token"):
        assert header in detail
    assert SECRET.decode() not in detail
    assert pokes == []


@pytest.mark.parametrize("sign", [github, gitea])
def test_a_signature_is_of_this_body_and_no_other(client: httpx.Client, pokes: list[str], sign: Sign) -> None:
    problem(client.post(PATH, content=BODY + b" ", headers=sign(SECRET, BODY)), 401)
    assert pokes == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"X-Hub-Signature-256": hex_of(SECRET, BODY)},
        {b"X-Hub-Signature-256": b"sha256=" + hex_of(SECRET, BODY)[:-1]},
        {b"X-Hub-Signature-256": b""},
        {b"X-Hub-Signature": b"sha1=" + hmac.new(SECRET, BODY, "sha1").hexdigest().encode()},
        {b"X-Gitea-Signature": b"sha256=" + hex_of(SECRET, BODY)},
        {b"X-Gitea-Signature": "ä".encode()},
        {b"X-Gitlab-Token": b"\xff\xfe"},
        {b"X-Gitlab-Token": hex_of(SECRET, BODY)},
        {b"Authorization": b"Bearer " + SECRET},
    ],
    ids=repr,
)
def test_what_is_no_signature_is_refused(
    client: httpx.Client, pokes: list[str], headers: Mapping[bytes, bytes]
) -> None:
    problem(client.post(PATH, content=BODY, headers=headers), 401)
    assert pokes == []


def test_one_right_signature_among_wrong_ones_is_enough(client: httpx.Client, pokes: list[str]) -> None:
    headers = {**github(b"a guess", BODY), **gitea(SECRET, BODY), **gitlab(b"a guess", BODY)}
    assert client.post(PATH, content=BODY, headers=headers).status_code == 202
    assert pokes == ["fleet"]


# -- the request -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("body", [b"", b"no JSON", b"\xff" * 1000, b"[" * 100_000], ids=len)
def test_what_it_says_is_never_looked_at(client: httpx.Client, pokes: list[str], body: bytes) -> None:
    assert client.post(PATH, content=body, headers=github(SECRET, body)).status_code == 202
    assert pokes == ["fleet"]


def test_a_flood_of_them_is_taken(client: httpx.Client, pokes: list[str]) -> None:
    def post(_: int) -> int:
        return client.post(PATH, content=BODY, headers=github(SECRET, BODY)).status_code

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(post, range(100))) == {202}
    assert pokes == ["fleet"] * 100


@pytest.mark.parametrize(
    "name", ["open", "no-such-source", "", "fleet/", "a/b", "../fleet", "ä", "\n", "\0", "%", "{x}", "x" * 1000]
)
def test_unknown_and_without_a_secret_are_the_same_to_whoever_asks(
    client: httpx.Client, pokes: list[str], name: str
) -> None:
    answer = client.post(f"/hooks/git/{quote(name, safe='')}", content=BODY, headers=github(b"", BODY))
    problem(answer, 404)
    if name != "\n":  # which no route has
        assert answer.json() == client.post("/hooks/git/open", headers=gitlab(b"", b"")).json()
    assert pokes == []


def test_a_name_that_is_no_text_is_unknown_too(client: httpx.Client) -> None:
    problem(client.post("/hooks/git/%ff%fe", content=BODY), 404)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_nothing_but_post_is_answered(client: httpx.Client, pokes: list[str], method: str) -> None:
    answer = client.request(method, PATH, headers=gitlab(SECRET, b""))
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert pokes == []


# -- too large -------------------------------------------------------------------------------------------------------
def test_the_largest_that_github_sends_is_taken(client: httpx.Client, pokes: list[str]) -> None:
    body = b"x" * LARGEST
    assert client.post(PATH, content=body, headers=github(SECRET, body)).status_code == 202
    assert pokes == ["fleet"]


def test_one_that_says_it_is_larger_is_refused_unread(server: WebServer, pokes: list[str]) -> None:
    answer = exchange(server, [f"Content-Length: {LARGEST + 1}\r\n\r\n".encode()])
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert pokes == []


def test_one_that_does_not_say_so_is_refused_as_soon_as_it_is_seen(server: WebServer, pokes: list[str]) -> None:
    part = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = exchange(server, [b"Transfer-Encoding: chunked\r\n\r\n", *[part] * (LARGEST // 0x10000), b"1\r\nx\r\n"])
    assert answer.startswith(b"HTTP/1.1 413 "), "and nobody waits for the end of the body"
    assert pokes == []


def test_one_that_breaks_off_pokes_nothing_and_harms_nobody(
    server: WebServer, client: httpx.Client, pokes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with connected(server) as broken:
        broken.sendall(request_line() + b"Content-Length: 1000\r\n\r\n" + BODY)
        broken.shutdown(socket.SHUT_WR)
        assert broken.recv(1) == b"", "an answer to nobody"
    assert client.post(PATH, content=BODY, headers=gitlab(SECRET, BODY)).status_code == 202
    assert pokes == ["fleet"]
    assert "Exception" not in caplog.text


def connected(server: WebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def request_line() -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Gitlab-Token: ".encode() + SECRET + b"\r\n"


def exchange(server: WebServer, parts: list[bytes]) -> bytes:
    """Send these after the request line, and read the answer to its end: the server must close the connection."""
    answer = b""
    with connected(server) as connection:
        connection.sendall(request_line())
        for part in parts:
            connection.sendall(part)
        while more := connection.recv(65536):
            answer += more
    return answer


def test_a_secret_is_not_shown_where_a_hook_is() -> None:
    assert repr(SECRET) not in repr(Hook(SECRET, lambda: True))
