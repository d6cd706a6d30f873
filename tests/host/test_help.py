"""Help of the nodes as a live server gives it: tooltips, translations, pages and their pictures."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest
from client import ComfyClient

import locales
from locales import LANGUAGES, PACK

NODES = sorted(locales.read_texts("en"))
DOCS = f"/extensions/{PACK}/docs/"
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


@pytest.fixture(scope="module")
def ours(client: ComfyClient) -> dict[str, Any]:
    """Our nodes in the server's answer to /object_info."""
    module = f"custom_nodes.{PACK}"
    return {name: node for name, node in client.get_json("/object_info").items() if node["python_module"] == module}


def _fetch(client: ComfyClient, path: str) -> tuple[str, bytes]:
    """Type and content of a file, as the browser gets it."""
    try:
        with urllib.request.urlopen(client.url + quote(path), timeout=300) as answer:
            return answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        pytest.fail(f"{path}: {error}")


def test_every_node_has_a_description(ours: dict[str, Any]) -> None:
    assert sorted(ours) == NODES
    assert [name for name, node in ours.items() if not node["description"].strip()] == []


def test_every_input_and_output_has_a_tooltip(ours: dict[str, Any]) -> None:
    missing = []
    for name, node in ours.items():
        for kind in ("required", "optional"):
            for given, (_type, *options) in node["input"].get(kind, {}).items():
                if not options or not (options[0].get("tooltip") or "").strip():
                    missing.append(f"{name}.{given}")
        tooltips = node.get("output_tooltips") or [None] * len(node["output"])
        missing += [f"{name} > {node['output_name'][i]}" for i, tip in enumerate(tooltips) if not tip]
    assert missing == []


def test_the_english_texts_are_the_schemas(client: ComfyClient) -> None:
    """After a change of a node's texts: `python scripts/locales.py`, and translate what it lists."""
    assert locales.read_texts("en") == locales.definitions(client.get_json("/object_info"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_server_gives_the_translations(client: ComfyClient, language: str) -> None:
    given = client.get_json("/i18n")[language]
    texts = locales.read_texts(language)
    assert {name: given["nodeDefs"].get(name) for name in texts} == texts
    main = dict(locales.leaves(locales.read_texts(language, "main")))
    assert main.items() <= dict(locales.leaves(given)).items()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_is_served_with_its_pictures(client: ComfyClient, language: str) -> None:
    for node in NODES:
        kind, page = _fetch(client, f"{DOCS}{node}/{language}.md")
        assert kind != "text/html"  # which the frontend takes for the page of a missing file
        assert page == locales.page_path(node, language).read_bytes()
        pictures = PICTURE.findall(page.decode())
        assert pictures
        for picture in pictures:
            kind, data = _fetch(client, DOCS + picture)
            assert kind == "image/png"
            assert data.startswith(b"\x89PNG")
