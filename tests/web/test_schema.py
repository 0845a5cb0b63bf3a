"""The API answers as its description says, whatever it is asked: generated requests, right and wrong ones, to a real daemon
and to a database full of odd texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from reconciler.adapters.store import SqlStore
from reconciler.web import Access, Scope, Token, digest_of, openapi_document
from tests.acceptance.daemons import Post, Site
from tests.acceptance.workspace import wait_for
from tests.contracts.stores import World
from tests.databases import SQLITE, migrated_database
from tests.fakes.clock import RunningClock
from tests.web.filled import HOSTILE, Desk, fill
from tests.web.ports import bearer, make_doors, served

ALL = "token-that-may-all"
EVERYTHING = Token("all", digest_of(ALL), frozenset(Scope))
DESCRIPTION = "/api/v1/openapi.json"

pytestmark = pytest.mark.slow

FEW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

APART = ("/api/v1/events", "/api/v1/session")
"""Streams don't end, and wrong logins would have every token refused for a while."""

OPERATIONS = [
    (method, path) for path, item in openapi_document()["paths"].items() for method in item if path not in APART
]

AS_DESCRIBED = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
"""Whether the request was a right one is not asked."""


def explore(schema: Any, method: str, path: str, mode: GenerationMode, known: Mapping[str, Sequence[str]]) -> None:
    """Ask for one operation in many ways, and once more each about something that is there."""
    wrong_by_design = [
        # A cursor is made by this API: that it is one, no schema says.
        checks.positive_data_acceptance,
        # What a manifest that is wrong would come to is its problems: an answer, and no refusal.
        # A tag may be any text, and an object that is written into a query looks like some.
        *([checks.negative_data_rejection] if path.endswith(("/plan", "/servers")) else []),
    ]

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @FEW
    def ask(case: Any) -> None:
        case.call_and_validate(headers=dict(bearer(ALL)), excluded_checks=wrong_by_design, timeout=60)
        there = {name: _one_of(known[name], case) for name in case.path_parameters or {} if known.get(name)}
        if there:
            case.path_parameters = {**(case.path_parameters or {}), **there}
            case.validate_response(case.call(headers=dict(bearer(ALL)), timeout=60), checks=AS_DESCRIBED)

    with suppress(Unsatisfiable):  # there is nothing about it that could be wrong
        ask()


def _one_of(known: Sequence[str], case: Any) -> str:
    """The same for the same case."""
    return known[crc32(repr((case.path_parameters, case.query, case.body)).encode()) % len(known)]


# -- a database full of odd texts ------------------------------------------------------------------------------------
ODD = {
    "source": ("default", "network"),
    "name": ("patch-web", "patch-db", "patch-old", "web-2", HOSTILE),
    "job_id": (
        *("batch-20261123-120000-abcdefghij", "job-20261123-120000-abcdefghij-0002"),
        "job-20261123-120000-abcdefghij-0003",
    ),
    "id": ("request-of-kim",),
}


@pytest.fixture(scope="module")
def odd_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    clock = RunningClock()
    with migrated_database(SQLITE, tmp_path_factory.mktemp("odd")) as url:
        store = SqlStore(url, clock)
        fill(World(store, clock))
        with served(make_doors(store, authoring=Desk(), access=Access((EVERYTHING,)))) as server:
            yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}{DESCRIPTION}")
        store.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_odd_texts_are_told_as_described(odd_schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    explore(odd_schema, method, path, mode, ODD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["get", "delete", "post"])
def test_sessions_are_as_described(method: str, mode: GenerationMode) -> None:
    with served(make_doors(access=Access((EVERYTHING,)))) as server:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}{DESCRIPTION}")
        explore(schema, method, "/api/v1/session", mode, {})


# -- a real daemon ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """One that has run some batches, and takes manifests into its directory."""
    folder = tmp_path_factory.mktemp("daemon")
    with migrated_database(SQLITE, folder) as url:
        site = Site(folder, url)
        with site.settings.open("a", encoding="utf-8") as more:
            more.write("\n[source]\nwrite = true\n")
            more.write(f'[[http.tokens]]\nname = "all"\nhash = "{EVERYTHING.digest}"\nscopes = ["operate", "write"]\n')
        site.job("one", 3)
        site.job("two", 2, limit=1)
        post = site.post("a")
        try:
            post.start()
            post.waits_to_say("daemon_started")
            wait_for(lambda: site.is_over("one") and site.is_over("two"), "the runs")
            yield post
        finally:
            site.clean_up()


@pytest.fixture(scope="module")
def daemon_schema(daemon: Post) -> Any:
    port = daemon.said("daemon_started")[-1]["port"]
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{port}{DESCRIPTION}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_daemon_answers_as_described(
    daemon: Post, daemon_schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    with httpx.Client(base_url=daemon_schema.get_base_url(), trust_env=False, timeout=60) as client:
        runs = [run["id"] for run in client.get("/api/v1/jobs").json()["items"]]
        children = [child["id"] for child in client.get(f"/api/v1/jobs/{runs[0]}/children").json()["items"]]
    known = {"source": ["default"], "name": ["one", "two", "one-1"], "job_id": [*runs, *children]}
    explore(daemon_schema, method, path, mode, known)
    assert daemon.lives()
    assert "Traceback" not in daemon.log.read_text()
