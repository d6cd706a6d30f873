"""Texts and help pages in three languages: nothing is missing or too much, and the pages say what the nodes say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import locales
from locales import CONTROL, HEADINGS, LANGUAGES, PAGES

ENGLISH = locales.read_texts("en")
NODES = sorted(ENGLISH)
EACH_PAGE = [(node, language) for node in NODES for language in LANGUAGES]
SCRIPTS = {"ja": r"[\u3040-\u30ff\u4e00-\u9fff]", "zh": r"[\u4e00-\u9fff]"}  # kana and Chinese characters
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")
PICTURE_MOST = 60 * 1024
TEMPLATES = ("_WITHIN_ALONE", "_TOO_MANY_CORES")
TUPLES = ("_KNOWN_SENTENCES",)
PHRASES = ("Phrase", "Advice", "counted_phrase")


def _page(node: str, language: str) -> str:
    return locales.page_path(node, language).read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["ja", "zh"])
@pytest.mark.parametrize("file", ["nodeDefs", "main"])
def test_a_translation_has_every_text_and_no_other(language: str, file: str) -> None:
    assert locales.differences(locales.read_texts("en", file), locales.read_texts(language, file)) == []


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_sentences_are_translated(language: str) -> None:
    texts = dict(locales.leaves(locales.read_texts(language)))
    sentences = {path: text for path, text in texts.items() if path.endswith((".tooltip", ".description"))}
    assert len(sentences) > 100
    assert [path for path, text in sentences.items() if not re.search(SCRIPTS[language], text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frontend_can_read_every_text(language: str) -> None:
    """It compiles messages, in which these characters are not taken literally."""
    texts = locales.leaves(locales.read_texts(language))
    assert [path for path, text in texts if re.search(r"[{}@|]", text)] == []


def test_every_word_of_the_panel_is_there(repo: Path) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (repo / "web").rglob("*.js"))
    words = set(re.findall(r'\bt\(\s*"([^"]+)"', code)) | {"lost", "slow"}  # the states of a lane
    assert len(words) > 30
    for language in LANGUAGES:
        theirs = locales.read_texts(language, "main")["chords"]
        assert set(theirs) == words
        for word, text in theirs.items():
            assert language != "en" or text == word
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", word)), (language, word)


def _phrases(folder: Path) -> set[str]:
    """The sentences that the server sends: see `nodes/host/phrases.py`."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in PHRASES:
                found |= {text.value for text in node.args if isinstance(text, ast.Constant)}
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in TEMPLATES:
                found.add(ast.literal_eval(node.value))
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in TUPLES:
                found |= set(ast.literal_eval(node.value))
            elif isinstance(node, ast.Dict):
                causes = [getattr(getattr(key, "value", None), "id", "") == "Cause" for key in node.keys]
                found |= {text.value for cause, text in zip(causes, node.values, strict=True) if cause}
    return {text for text in found if isinstance(text, str)}


def test_every_sentence_of_the_server_is_there(repo: Path) -> None:
    words = _phrases(repo / "nodes")
    assert len(words) > 60 and "with one device, nothing can run in parallel" in words
    for language in LANGUAGES:
        theirs = locales.read_texts(language, "main")["chords_run"]
        assert set(theirs) == words
        for word, text in theirs.items():
            assert language != "en" or text == word
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", word)), (language, word)


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_sentences_name_inputs_as_the_nodes_show_them(language: str) -> None:
    """And Japanese has no space between a number or a name and its own letters."""
    inputs = r"\b(fidelity|cores|method|accept|denoise|devices|steps)\b"
    texts = locales.read_texts(language, "main")
    for word, text in {**texts["chords"], **texts["chords_run"]}.items():
        assert not re.search(inputs, re.sub(r"{\w+}", "", text)), (word, text)
        if language == "ja":
            letters = SCRIPTS["ja"]
            assert not re.search(rf"[\w}}] {letters}|{letters} [\w{{]", text), (word, text)


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_values_to_choose_are_named_as_they_are(language: str) -> None:
    """Choices are not translated, so a translated tooltip names the same ones as the English one."""
    theirs = dict(locales.leaves(locales.read_texts(language)))
    for path, text in locales.leaves(ENGLISH):
        choices = re.findall(r"(?:^|\. )(\w+): ", text) if path.endswith(".tooltip") else []
        missing = [choice for choice in choices if choice[0].islower() and choice not in theirs[path]]
        assert not missing, (path, missing)


def test_there_is_a_page_for_every_node_and_language_and_no_other() -> None:
    expected = {locales.page_path(node, language) for node, language in EACH_PAGE}
    assert set(PAGES.glob("**/*.md")) == expected


@pytest.mark.parametrize(("node", "language"), EACH_PAGE)
def test_a_page_has_the_title_and_the_headings(node: str, language: str) -> None:
    page = _page(node, language)
    assert page.splitlines()[0] == f"# {locales.read_texts(language)[node]['display_name']}"
    assert tuple(re.findall(r"^## (.+)$", page, re.MULTILINE)) == HEADINGS[language]


@pytest.mark.parametrize(("node", "language"), EACH_PAGE)
def test_a_page_names_every_input_and_says_what_the_node_says(node: str, language: str) -> None:
    """After a change of a node's texts: `python scripts/locales.py`."""
    page, texts = _page(node, language), locales.read_texts(language)[node]
    given = page.split(f"## {HEADINGS[language][0]}\n")[1].split("\n## ")[0]
    for name in texts.get("inputs", {}):
        assert name == CONTROL or f"`{name}`" in given, name
    assert locales.with_lists(page, texts, language) == page


@pytest.mark.parametrize(("node", "language"), EACH_PAGE)
def test_a_page_says_when_it_helps_and_when_not(node: str, language: str) -> None:
    page = _page(node, language)
    for heading in HEADINGS[language][2:]:
        section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert re.findall(r"^- .{10,}$", section, re.MULTILINE), heading


@pytest.mark.parametrize("node", NODES)
def test_pages_in_all_languages_have_the_same_parts(node: str) -> None:
    def shape(language: str) -> list[str]:
        lines = _page(node, language).splitlines()
        return [line.split(" ")[0] if line[:1] in "#-" else line[:1] if line[:1] in "!|" else "text" for line in lines]

    assert shape("ja") == shape("en")
    assert shape("zh") == shape("en")


@pytest.mark.parametrize(("node", "language"), EACH_PAGE)
def test_a_page_shows_the_node(node: str, language: str) -> None:
    """The frontend looks for a page's pictures from `web/docs` on, not from the page's folder."""
    assert PICTURE.findall(_page(node, language)) == [f"images/{node}.png"]


def test_pictures_are_small_and_all_of_them_are_shown() -> None:
    pictures = {path.stem: path for path in (PAGES / "images").iterdir()}
    assert sorted(pictures) == NODES
    for path in pictures.values():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size < PICTURE_MOST, path


def test_files_that_pages_point_to_exist(repo: Path) -> None:
    for node, language in EACH_PAGE:
        for name in re.findall(r"`((?:docs|workflows)/[^`]+)`", _page(node, language)):
            assert (repo / name).exists(), (node, language, name)


def test_no_type_has_the_name_of_a_node_in_a_script(repo: Path) -> None:
    """Clients make names of their language from both: CHORDS_DEVICES and ChordsDevices would be one."""
    code = "".join(path.read_text(encoding="utf-8") for path in (repo / "nodes").rglob("*.py"))
    types = set(re.findall(r'io\.Custom\("(\w+)"\)', code)) - {"LORA_MODEL"}  # that one is the host's
    assert types == set(locales.read_texts("en", "main")["dataTypes"])
    names = [name.replace("_", "").casefold() for name in [*types, *NODES]]
    assert len(types) >= 3 and len(set(names)) == len(names)


# ------------------------------------------------------------------------------------------------ the script


INFO = {
    "Ours": {
        "python_module": f"custom_nodes.{locales.PACK}",
        "display_name": "Our Node",
        "description": "It does something.",
        "input": {
            "required": {"seed": ["INT", {"tooltip": "The seed.", "control_after_generate": True}]},
            "optional": {"mask": ["MASK"]},
        },
        "output_name": ["LATENT", "RUN"],
        "output_tooltips": ["The latent.", None],
    },
    "Theirs": {"python_module": "nodes"},
}
TEXTS = {
    "Ours": {
        "display_name": "Our Node",
        "description": "It does something.",
        "inputs": {
            "seed": {"name": "seed", "tooltip": "The seed."},
            "control_after_generate": {"name": "control after generate"},
            "mask": {"name": "mask"},
        },
        "outputs": {"0": {"name": "LATENT", "tooltip": "The latent."}, "1": {"name": "RUN"}},
    }
}


def test_english_is_what_the_schemas_say() -> None:
    assert locales.definitions(INFO) == TEXTS


def test_what_a_language_lacks_or_has_too_much_is_found() -> None:
    other = {"Ours": {**TEXTS["Ours"], "description": " ", "inputs": {"sed": {"name": "seed"}}}}
    assert locales.differences(TEXTS, TEXTS) == []
    assert locales.differences(TEXTS, other) == [
        "lacks Ours.description: It does something.",
        "lacks Ours.inputs.seed.name: seed",
        "lacks Ours.inputs.seed.tooltip: The seed.",
        "lacks Ours.inputs.control_after_generate.name: control after generate",
        "lacks Ours.inputs.mask.name: mask",
        "has Ours.inputs.sed.name, which does not exist",
    ]


def test_lists_are_written_between_the_headings() -> None:
    page = "# T\n\nWords.\n\n## 入力\nold\n## 出力\n\n## 役立つ場面\n\n- Then.\n"
    texts = {**TEXTS["Ours"], "inputs": {"seed": {"name": "シード", "tooltip": "種。"}}}
    written = locales.with_lists(page, texts, "ja")
    assert "old" not in written
    assert "## 入力\n\n- **シード** (`seed`): 種。\n\n## 出力\n\n- **LATENT**: The latent.\n" in written
    assert written.endswith("## 役立つ場面\n\n- Then.\n")
    assert locales.with_lists(written, texts, "ja") == written
    nothing = locales.with_lists(page, {"outputs": TEXTS["Ours"]["outputs"]}, "ja")
    assert "## 入力\n\nなし。\n\n## 出力\n" in nothing
