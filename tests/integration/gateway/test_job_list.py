"""GET /v1/jobs: pages, filters, and the search in prompts, which is bounded."""

from __future__ import annotations

import httpx2
import pytest

from service.jobs import views
from tests.gateway import png


def test_list_pages_newest_first_with_filters(client: httpx2.Client) -> None:
    ids = [client.post("/v1/txt2img", json={"priority": "bulk"}).json()["id"] for _ in range(5)]
    upscaled = client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")}).json()["id"]
    client.delete(f"/v1/jobs/{ids[2]}")
    seen, cursor = [], None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/jobs", params=query).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted([*ids, upscaled])
    created = [client.get(f"/v1/jobs/{job_id}").json()["created_at"] for job_id in seen]
    assert created == sorted(created, reverse=True)
    assert [job["id"] for job in client.get("/v1/jobs?kind=upscale").json()["items"]] == [upscaled]
    assert [job["id"] for job in client.get("/v1/jobs?status=canceled").json()["items"]] == [ids[2]]
    assert client.get("/v1/jobs?status=running").json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "cursor=%21", "cursor=eA", "status=odd", "stauts=queued"]
)
def test_list_refuses_odd_queries(client: httpx2.Client, query: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert problem["field"] == query.split("=")[0]
    assert problem["bound"]


def test_a_text_is_searched_in_prompts(client: httpx2.Client) -> None:
    posts = ({"prompt": "Red HEART"}, {"prompt": "star", "negative_prompt": "heart"}, {"prompt": "star"})
    ids = [client.post("/v1/txt2img", json=post).json()["id"] for post in posts]
    client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")})
    found = client.get("/v1/jobs", params={"q": "heart"}).json()
    assert [job["id"] for job in found["items"]] == [ids[1], ids[0]]
    assert found["next_cursor"] is None
    assert client.get("/v1/jobs", params={"q": "heart", "kind": "upscale"}).json()["items"] == []


def test_a_search_looks_at_so_many_jobs_and_says_where_to_go_on(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = client.post("/v1/txt2img", json={"prompt": "red heart"}).json()["id"]
    for _ in range(5):
        client.post("/v1/txt2img", json={"prompt": "star"})
    monkeypatch.setattr(views, "PAGE", 2)
    monkeypatch.setattr(views, "MOST_PAGES", 1)
    first = client.get("/v1/jobs", params={"q": "heart"}).json()
    assert first["items"] == []
    second = client.get("/v1/jobs", params={"q": "heart", "cursor": first["next_cursor"]}).json()
    third = client.get("/v1/jobs", params={"q": "heart", "cursor": second["next_cursor"]}).json()
    assert [job["id"] for job in third["items"]] == [wanted]
