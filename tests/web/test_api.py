"""What the API says of batches, jobs and servers, page by page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from reconciler.core.facts import JobKey
from reconciler.core.status import JobStatus, Phase
from tests.builders import COMMIT, hosts
from tests.contracts.stores import World
from tests.web.filled import ELSEWHERE, FAILED, HOSTILE, LINES, RETIRED, RUNNING, status_of

API = "/api/v1"


def items(client: httpx.Client, path: str, **query: Any) -> list[Any]:
    answer = client.get(f"{API}{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["items"]
    return found


def names(client: httpx.Client, **query: Any) -> list[str]:
    return [f"{each['source']}/{each['name']}" for each in items(client, "/batches", **query)]


def every_page(client: httpx.Client, path: str, **query: Any) -> list[list[Any]]:
    """Until there is no next one."""
    pages, cursor = [], None
    while True:
        answer = client.get(f"{API}{path}", params={**query, **({"cursor": cursor} if cursor else {})}).json()
        pages.append(answer["items"])
        cursor = answer["next"]
        if cursor is None:
            return pages


# -- batches ---------------------------------------------------------------------------------------------------------
def test_batches_are_listed_with_what_a_row_shows(client: httpx.Client, run: str) -> None:
    answer = client.get(f"{API}/batches").json()
    by_name = {(each["source"], each["name"]): each for each in answer["items"]}
    assert set(by_name) == {tuple(str(key).split("/")) for key in (FAILED, RUNNING, ELSEWHERE)}
    assert answer["next"] is None
    row = by_name["default", "patch-web"]
    assert row["phase"] == "Failed"
    assert row["labels"] == {"team": HOSTILE}
    assert row["message"] == HOSTILE
    assert (row["hosts"]["selected"], row["hosts"]["failed"]) == (3, 1)
    assert row["strategy"] == "parallel"
    assert row["activeAt"] == "2026-11-23T12:00:00Z"
    assert client.get(row["url"]).json()["metadata"]["name"] == "patch-web"
    assert answer["phases"] == {"Failed": 1, "Running": 1, "Pending": 1, "Removed": 1}


def test_a_parameter_that_is_given_twice_is_refused_where_one_is_meant(client: httpx.Client) -> None:
    answer = client.get("/api/v1/batches?source=default&source=network")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "source")
    assert client.get("/api/v1/batches?phase=Failed&phase=Running").status_code == 200


def test_batches_are_filtered(client: httpx.Client, run: str) -> None:
    assert names(client, source="network") == ["network/patch-web"]
    assert names(client, phase="Failed") == ["default/patch-web"]
    assert set(names(client, phase=["Failed", "Running"])) == {"default/patch-web", "default/patch-db"}
    assert names(client, phase="Removed") == ["default/patch-old"]
    assert names(client, text="PATCH-DB") == ["default/patch-db"]
    assert names(client, text="%") == []
    assert names(client, source="nowhere") == []


def test_pages_of_batches_have_each_once(client: httpx.Client, world: World) -> None:
    for number in range(23):
        key = JobKey("default", f"batch-{number}")
        world.accept(key)
        world.store.save_status(key, status_of(key, Phase.PENDING))
    pages = every_page(client, "/batches", limit=10)
    assert [len(page) for page in pages] == [10, 10, 3]
    assert len({each["name"] for page in pages for each in page}) == 23


def test_the_whole_status_is_what_the_status_file_has(client: httpx.Client, run: str) -> None:
    answer = client.get(f"{API}/batches/default/patch-web")
    assert JobStatus.model_validate(answer.json()) == status_of(FAILED, Phase.FAILED)
    assert client.get(f"{API}/batches/default/no-such-batch").status_code == 404
    assert client.get(f"{API}/batches/network/patch-db").status_code == 404


# -- jobs ------------------------------------------------------------------------------------------------------------
def test_runs_are_listed_newest_first(client: httpx.Client, world: World, run: str) -> None:
    found = items(client, "/jobs")
    assert [each["name"] for each in found] == ["patch-db", "patch-web"]
    assert found[1]["id"] == run
    assert found[1]["hosts"] == {"success": 2, "failed": 1}
    assert found[1]["commit"]["id"] == COMMIT.id
    assert found[1]["commit"]["author"] == COMMIT.author
    assert [each["id"] for each in items(client, "/jobs", name="patch-web", status="failed")] == [run]
    assert items(client, "/jobs", source="network") == []
    pages = every_page(client, "/jobs", limit=1)
    assert [page[0]["name"] for page in pages] == ["patch-db", "patch-web"]


def test_a_job_is_a_run_or_a_child(client: httpx.Client, run: str) -> None:
    parent = client.get(f"{API}/jobs/{run}").json()
    assert (parent["kind"], parent["status"], parent["cause"]) == ("run", "failed", "SpecChanged")
    children = client.get(parent["children"]).json()["items"]
    assert [child["host"] for child in children] == ["web-1", "web-2", HOSTILE]
    failed = client.get(f"{API}/jobs/{children[1]['id']}").json()
    assert failed == children[1]
    assert (failed["kind"], failed["status"], failed["run"]) == ("child", "failed", run)
    assert (failed["reason"], failed["task"], failed["message"]) == ("TaskFailed", "Install nginx", HOSTILE)
    assert failed["counts"]["ok"] == 3
    assert client.get(f"{API}/jobs/batch-20260101-000000-aaaaaaaaaa").status_code == 404


def test_children_are_filtered_and_paged(client: httpx.Client, run: str) -> None:
    assert [each["host"] for each in items(client, f"/jobs/{run}/children", status="failed")] == ["web-2"]
    pages = every_page(client, f"/jobs/{run}/children", limit=2)
    assert [len(page) for page in pages] == [2, 1]
    child = pages[0][0]["id"]
    assert client.get(f"{API}/jobs/{child}/children").status_code == 404, "which has none: it is no run"


def test_attempts_are_those_of_a_child(client: httpx.Client, run: str) -> None:
    child = items(client, f"/jobs/{run}/children")[1]["id"]
    (attempt,) = items(client, f"/jobs/{child}/attempts")
    assert (attempt["number"], attempt["status"], attempt["message"]) == (1, "failed", HOSTILE)
    assert client.get(f"{API}/jobs/{run}/attempts").status_code == 404


# -- logs ------------------------------------------------------------------------------------------------------------
def test_a_log_goes_on_where_the_page_before_ended(client: httpx.Client, run: str) -> None:
    child = items(client, f"/jobs/{run}/children")[1]
    texts, after = [], "0"
    while True:
        answer = client.get(child["log"], params={"after": after, "limit": 200}).json()
        texts += [line["text"] for line in answer["items"]]
        if not answer["items"]:
            assert answer["next"] == after, "where it goes on, once more is written"
            break
        after = answer["next"]
    assert texts == [f"line {number} {HOSTILE}" for number in range(1, LINES + 1)]


def test_the_log_of_a_host_is_found_by_its_run_too(client: httpx.Client, run: str) -> None:
    assert [line["text"] for line in items(client, f"/jobs/{run}/log")] == ["PLAY [all]"]
    by_run = items(client, f"/jobs/{run}/log", host="web-2", limit=5)
    child = items(client, f"/jobs/{run}/children")[1]
    assert by_run == items(client, f"/jobs/{child['id']}/log", limit=5)
    assert items(client, f"/jobs/{run}/log", host="web-2", attempt=2) == []
    assert client.get(f"{API}/jobs/{child['id']}/log", params={"host": "web-1"}).status_code == 422


@pytest.mark.parametrize("how", ["accept", "download"])
def test_a_whole_log_is_plain_text(client: httpx.Client, run: str, how: str) -> None:
    child = items(client, f"/jobs/{run}/children")[1]
    query = {"download": "1"} if how == "download" else {}
    answer = client.get(child["log"], params=query, headers={"Accept": "text/plain"} if how == "accept" else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == "".join(f"line {number} {HOSTILE}\n" for number in range(1, LINES + 1))
    if how == "download":
        assert answer.headers["content-disposition"] == f'attachment; filename="{child["id"]}.log"'


def test_a_name_in_a_download_is_no_header(client: httpx.Client, run: str) -> None:
    answer = client.get(f"{API}/jobs/{run}/log", params={"host": HOSTILE, "download": "1"})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="{run}-_script_alert_x_script_2f.._.log"'


# -- servers and sources ---------------------------------------------------------------------------------------------
def test_servers_are_listed_by_name_with_what_was_done_to_them(client: httpx.Client, world: World, run: str) -> None:
    found = items(client, "/servers")
    assert [each["name"] for each in found] == [HOSTILE, "db-1", "db-2", "switch-1", "web-1", "web-2", "web-3"]
    web = found[5]
    assert (web["address"], web["tags"]) == ("web-2.example", ["web"])
    assert (web["last"]["status"], web["last"]["run"], web["last"]["name"]) == ("failed", run, "patch-web")
    assert found[6]["last"] is None
    assert [each["name"] for each in items(client, "/servers", text="WEB-2.EX")] == ["web-2"]
    assert [each["name"] for each in items(client, "/servers", tag=["web", HOSTILE])] == []
    assert [each["name"] for each in items(client, "/servers", tag=HOSTILE)] == ["switch-1"]
    assert [each["name"] for each in items(client, "/servers", group="core")] == ["switch-1"]
    pages = every_page(client, "/servers", limit=1)
    assert [page[0]["name"] for page in pages] == [each["name"] for each in found]


def test_tags_are_counted(client: httpx.Client, run: str) -> None:
    counts = {each["tag"]: each["servers"] for each in items(client, "/tags", source="default")}
    assert counts == {"web": 6}
    assert {each["tag"] for each in items(client, "/tags")} >= {"web", HOSTILE, "group:core"}


def test_the_past_of_a_server_is_what_batches_of_its_source_did(client: httpx.Client, world: World, run: str) -> None:
    world.clock.advance(timedelta(hours=1))
    world.open_run(hosts("web-1"), key=ELSEWHERE)
    assert [each["run"] for each in items(client, "/servers/default/web-1/jobs")] == [run]
    assert [each["source"] for each in items(client, "/servers/network/web-1/jobs")] == ["network"]
    assert items(client, "/servers/default/web-3/jobs") == []
    assert client.get(f"{API}/servers/default/web-4/jobs").status_code == 404


def test_sources_say_how_they_stand(client: httpx.Client, run: str) -> None:
    found = items(client, "/sources")
    assert [each["metadata"]["name"] for each in found] == ["default", "network"]
    assert found[0]["status"]["rejected"][0]["path"] == "jobs/bad.yaml"


# -- what one has already --------------------------------------------------------------------------------------------
PATHS = ["/batches", "/batches/default/patch-web", "/jobs", "/servers", "/tags", "/sources", "/offers", "/openapi.json"]


@pytest.mark.parametrize("path", [*PATHS, "/session"])
def test_what_one_has_already_is_not_sent_again(client: httpx.Client, run: str, path: str) -> None:
    first = client.get(f"{API}{path}")
    tag = first.headers["etag"]
    assert "no-cache" in first.headers["cache-control"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get(f"{API}{path}", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(f"{API}{path}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_change_changes_the_tag(client: httpx.Client, world: World, run: str) -> None:
    before = client.get(f"{API}/batches").headers["etag"]
    world.store.save_status(FAILED, status_of(FAILED, Phase.RUNNING))
    answer = client.get(f"{API}/batches", headers={"If-None-Match": before})
    assert answer.status_code == 200
    assert answer.headers["etag"] != before


def test_removed_ones_are_known_by_name(client: httpx.Client, run: str) -> None:
    assert client.get(f"{API}/batches/{RETIRED}").json()["status"]["phase"] == "Removed"
