"""Lists of tags, the catalog, and the search of the v1 API: order, pages, and bad numbers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon import Daemon

from .conftest import check_undisturbed
from .content import OCI_EMPTY, Repository, descriptor, encode, image
from .wire import Client, link_of

TAGS = ["Z", "a", "_x", "1", "B", "a.b", "a-b", "10", "2", "aa", "a_b", "Z.9", "latest"]
REPOSITORIES = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "ab", "b", "z/y/x", "0"]
BAD_NUMBERS = [
    "-1",
    "abc",
    "1.5",
    "1_0",
    "%EF%BC%95",
    "%205",
    "5%20",
    "0x5",
    "1e1",
    "%00",
    "%ff",
    "5%0a",
    "--1",
    "null",
]

CONFIG: dict[str, Any] = {
    "storage": {"delete": {"enabled": True}},
    "catalog": {"maxentries": 40},
    "tags": {"maxtags": 20},
}


def push_tags(repo: Repository, *tags: str) -> None:
    repo.blob(b"{}")
    content = encode(image(descriptor(b"{}", OCI_EMPTY)))
    for tag in tags:
        repo.put(tag, content, "application/vnd.oci.image.manifest.v1+json").is_(201)


@pytest.fixture(scope="module")
def filled(daemon: Daemon) -> str:
    """The path of a list of thirteen tags."""
    client = Client(daemon.address)
    push_tags(Repository(client, "t/filled"), *TAGS)
    client.close()
    return "/v2/t/filled/tags/list"


@pytest.fixture(scope="module")
def catalog() -> Any:
    """A client of a registry with ten repositories."""
    with Daemon(catalog={"maxentries": 8}) as daemon:
        client = Client(daemon.address)
        assert client.get("/v2/_catalog").is_(200).json() == {"repositories": []}
        for name in reversed(REPOSITORIES):
            push_tags(Repository(client, name), "latest")
        yield client
        client.close()
        check_undisturbed(daemon)


def pages_of(client: Client, path: str, key: str) -> list[list[str]]:
    """What each page lists, by following the links."""
    pages: list[list[str]] = []
    following: str | None = path
    while following is not None:
        response = client.get(following).is_(200)
        pages.append(response.json()[key])
        assert len(pages) < 100, "pages without end"
        following = link_of(response)
    return pages


def test_all_tags_in_order(client: Client, filled: str) -> None:
    response = client.get(filled).is_(200)
    assert response.json() == {"name": "t/filled", "tags": sorted(TAGS)}
    assert response.all("Link") == []
    client.head(filled).is_(200)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_pages_of_tags(client: Client, filled: str, size: int) -> None:
    pages = pages_of(client, f"{filled}?n={size}", "tags")
    assert [tag for page in pages for tag in page] == sorted(TAGS)
    assert all(len(page) == size for page in pages[:-1]) and pages[-1]


@pytest.mark.parametrize("size", [13, 14, 20])
def test_the_last_page_has_no_link(client: Client, filled: str, size: int) -> None:
    assert pages_of(client, f"{filled}?n={size}", "tags") == [sorted(TAGS)]


@pytest.mark.parametrize(
    "last", ["", "Z", "a", "latest", "zzz", "a-", "C", "0", "~", "%C3%A9", "%ff", "%00", "a/b", ".."]
)
def test_tags_after_one(client: Client, filled: str, last: str) -> None:
    response = client.get(f"{filled}?last={last}").is_(200)
    bound = {"%C3%A9": "\xff", "%ff": "\xff", "%00": ""}.get(last, last)
    assert response.json()["tags"] == [tag for tag in sorted(TAGS) if tag > bound]
    page = client.get(f"{filled}?last={last}&n=2").is_(200).json()["tags"]
    assert page == response.json()["tags"][:2]


def test_no_tags_asked_for(client: Client, filled: str) -> None:
    for query in ("n=0", "n=0&last=a", "n=00"):
        response = client.get(f"{filled}?{query}").is_(200)
        assert response.json() == {"name": "t/filled", "tags": []}
        assert response.all("Link") == []


@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_bad_number_of_tags(client: Client, filled: str, number: str) -> None:
    client.get(f"{filled}?n={number}").refuses(400, "PAGINATION_NUMBER_INVALID")


@pytest.mark.parametrize("number", ["9" * 10, "9" * 18, "9223372036854775807", "9" * 30, "9" * 5000])
def test_large_number_of_tags(client: Client, filled: str, number: str) -> None:
    assert pages_of(client, f"{filled}?n={number}", "tags") == [sorted(TAGS)]


@pytest.mark.parametrize("number", ["", "5&n=7"])
def test_odd_number_of_tags(client: Client, filled: str, number: str) -> None:
    response = client.get(f"{filled}?n={number}")
    if response.status != 200:
        response.refuses(400, "PAGINATION_NUMBER_INVALID")


def test_most_tags_of_a_page(client: Client, repo: Repository) -> None:
    tags = sorted(f"tag{number}" for number in range(23))
    push_tags(repo, *tags)
    assert [len(page) for page in pages_of(client, repo.path("tags/list?n=100"), "tags")] == [20, 3]
    # Distribution answers all of them to who asks for no number; a page with a link is as good.
    assert [tag for page in pages_of(client, repo.path("tags/list"), "tags") for tag in page] == tags


def test_tags_of_an_unknown_repository(client: Client, repo: Repository) -> None:
    client.get(repo.path("tags/list")).refuses(404, "NAME_UNKNOWN")
    client.get(repo.path("tags/list?n=5&last=a")).refuses(404, "NAME_UNKNOWN")


def test_tags_of_a_repository_without_any(client: Client, repo: Repository) -> None:
    push_tags(repo, "only")
    client.delete(repo.path("manifests/only")).is_(202)
    assert client.get(repo.path("tags/list")).is_(200).json() == {"name": repo.name, "tags": []}


def test_tags_where_there_is_only_a_blob(client: Client, repo: Repository) -> None:
    repo.blob()
    response = client.get(repo.path("tags/list"))
    if response.status == 200:
        assert response.json()["tags"] == []
    else:
        response.refuses(404, "NAME_UNKNOWN")


def test_a_repository_above_others_has_no_tags(client: Client, repo: Repository) -> None:
    push_tags(Repository(client, f"{repo.name}/child"), "latest")
    client.get(repo.path("tags/list")).refuses(404, "NAME_UNKNOWN")


def test_all_repositories_in_order(catalog: Client) -> None:
    pages = pages_of(catalog, "/v2/_catalog", "repositories")
    assert [name for page in pages for name in page] == sorted(REPOSITORIES)
    catalog.head("/v2/_catalog").is_(200)


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_pages_of_repositories(catalog: Client, size: int) -> None:
    pages = pages_of(catalog, f"/v2/_catalog?n={size}", "repositories")
    assert [name for page in pages for name in page] == sorted(REPOSITORIES)
    assert all(len(page) == size for page in pages[:-1]) and pages[-1]


@pytest.mark.parametrize(
    "last", ["", "a", "a-", "a-b", "a.", "a.b", "a/", "a/b", "a/b/", "a0", "zz", "~", "A", "%ff", "%00", ".."]
)
def test_repositories_after_one(catalog: Client, last: str) -> None:
    bound = {"%ff": "\xff", "%00": ""}.get(last, last)
    pages = pages_of(catalog, f"/v2/_catalog?n=3&last={last}", "repositories")
    assert [name for page in pages for name in page] == [name for name in sorted(REPOSITORIES) if name > bound]


@pytest.mark.parametrize("number", ["9", "1000", "9" * 40, *BAD_NUMBERS])
def test_bad_number_of_repositories(catalog: Client, number: str) -> None:
    catalog.get(f"/v2/_catalog?n={number}").refuses(400, "PAGINATION_NUMBER_INVALID")


def test_no_repositories_asked_for(catalog: Client) -> None:
    response = catalog.get("/v2/_catalog?n=0")
    if response.status == 200:
        assert response.json() == {"repositories": []} and response.all("Link") == []
    else:
        response.refuses(400, "PAGINATION_NUMBER_INVALID")


def found(client: Client, query: str) -> tuple[int, list[str]]:
    """How many results a search has, and the names on its page."""
    document = client.get(f"/v1/search?{query}").is_(200).json()
    assert isinstance(document["query"], str)
    for result in document["results"]:
        assert set(result) >= {"name", "description"}
        assert isinstance(result["description"], str)
    return document["num_results"], [result["name"] for result in document["results"]]


def test_search(catalog: Client) -> None:
    assert found(catalog, "q=a/b") == (2, ["a/b", "a/b/c"])
    assert found(catalog, "q=z") == (1, ["z/y/x"])
    assert found(catalog, "q=none") == (0, [])
    assert catalog.get("/v1/search?q=a%2Fb").json()["query"] == "a/b"
    assert found(catalog, "q=B")[1] in ([], [name for name in sorted(REPOSITORIES) if "b" in name])
    assert found(catalog, "q=")[0] == len(REPOSITORIES)
    assert found(catalog, "")[0] == len(REPOSITORIES)


def test_pages_of_a_search(catalog: Client) -> None:
    names: list[str] = []
    for page in (1, 2, 3, 4):
        total, part = found(catalog, f"q=&n=3&page={page}")
        assert total == len(REPOSITORIES)
        names += part
    assert sorted(names) == sorted(REPOSITORIES)
    assert found(catalog, "q=&n=3&page=5") == (len(REPOSITORIES), [])


@pytest.mark.parametrize("query", ["n=-1", "n=abc", "n=1_0", "n=%EF%BC%95", "n=%00"])
def test_bad_numbers_of_a_search(catalog: Client, query: str) -> None:
    catalog.get(f"/v1/search?q=a&{query}").refuses(400, "PAGINATION_NUMBER_INVALID")


@pytest.mark.parametrize(
    "query",
    [
        "q=%ff",
        "q=%00",
        "q=..%2f..",
        "q=" + "a" * 3000,
        "q=a&q=b",
        "q[]=a",
        "n=" + "9" * 4000,
        "page=" + "9" * 4000,
        "page=-1",
        "page=abc",
        "page=%EF%BC%95",
        "%",
        "&&&=",
    ],
)
def test_odd_searches(catalog: Client, query: str) -> None:
    assert catalog.get(f"/v1/search?{query}").status in (200, 400)
