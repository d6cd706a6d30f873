"""Keeps the pack's texts in three languages consistent: nodes, `locales` and the lists in the help pages.

    python scripts/locales.py            # write locales/en/nodeDefs.json and the lists of web/docs, and name the rest
    python scripts/locales.py --check    # write nothing; the exit status is 1 if there is something to do

The English texts are those of the nodes' schemas, which a live ComfyUI gives (one that this command starts, or
`--server`). Japanese and Chinese are written by hand in `locales/ja` and `locales/zh`; the command names missing and
superfluous texts. It makes the lists of inputs and outputs in `web/docs/<node>/<language>.md` from the same texts, so
that tooltips and pages agree. (They are lists, not tables: the frontend's help panel is narrow.)
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
LOCALES = REPO / "locales"
PAGES = REPO / "web" / "docs"
LANGUAGES = ("en", "ja", "zh")
PACK = "ComfyUI-CHORDS"
CONTROL = "control_after_generate"  # a widget that the frontend adds to seeds

# The headings of a page in their order.
HEADINGS = {
    "en": ("Inputs", "Outputs", "When it helps", "When it does not"),
    "ja": ("入力", "出力", "役立つ場面", "向かない場面"),
    "zh": ("输入", "输出", "适用场景", "不适用场景"),
}
NONE = {"en": "None.", "ja": "なし。", "zh": "无。"}
NAMED = {"en": "- {}: {}", "ja": "- {}: {}", "zh": "- {}：{}"}

Texts = dict[str, Any]


# ------------------------------------------------------------------------------------------------ texts


def definitions(object_info: Texts, pack: str = PACK) -> Texts:
    """The content of the English `nodeDefs.json`, from a server's answer to /object_info: our nodes, sorted by name."""
    ours = {name: node for name, node in object_info.items() if node["python_module"] == f"custom_nodes.{pack}"}
    return {name: _definition(ours[name]) for name in sorted(ours)}


def _definition(node: Texts) -> Texts:
    inputs: Texts = {}
    for kind in ("required", "optional"):
        for name, (_type, *more) in node["input"].get(kind, {}).items():
            options = more[0] if more else {}
            inputs[name] = _filled(name=options.get("display_name") or name, tooltip=options.get("tooltip"))
            if options.get(CONTROL):
                inputs[CONTROL] = {"name": CONTROL.replace("_", " ")}
    tooltips = node.get("output_tooltips") or [None] * len(node["output_name"])
    outputs = {
        str(i): _filled(name=name, tooltip=tooltip)
        for i, (name, tooltip) in enumerate(zip(node["output_name"], tooltips, strict=True))
    }
    texts: Texts = {"display_name": node["display_name"], "description": node["description"]}
    return {**texts, **({"inputs": inputs} if inputs else {}), "outputs": outputs}


def _filled(**texts: str | None) -> Texts:
    return {key: text for key, text in texts.items() if text}


def read_texts(language: str, file: str = "nodeDefs") -> Texts:
    """One of the pack's files of texts."""
    texts: Texts = json.loads((LOCALES / language / f"{file}.json").read_text(encoding="utf-8"))
    return texts


def leaves(texts: Texts, path: str = "") -> Iterator[tuple[str, str]]:
    """Each text with its path, such as ``ChordsReport.inputs.run.tooltip``."""
    for key, value in texts.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, here)
        else:
            yield here, value


def differences(english: Texts, other: Texts) -> list[str]:
    """The texts that another language lacks, and those that it has without an English text."""
    ours, theirs = dict(leaves(english)), dict(leaves(other))
    lacking = [f"lacks {path}: {text}" for path, text in ours.items() if not theirs.get(path, "").strip()]
    return lacking + [f"has {path}, which does not exist" for path in theirs if path not in ours]


# ------------------------------------------------------------------------------------------------ pages


def page_path(node: str, language: str) -> Path:
    """The file where the frontend looks for the help of a node."""
    return PAGES / node / f"{language}.md"


def with_lists(page: str, texts: Texts, language: str) -> str:
    """A page with new lists of inputs and outputs, made from the texts of its node."""
    given, taken, *_ = HEADINGS[language]
    inputs = {name: text for name, text in texts.get("inputs", {}).items() if name != CONTROL}
    page = _replaced(page, given, _list(inputs, language, with_ids=True))
    return _replaced(page, taken, _list(texts["outputs"], language, with_ids=False))


def _list(entries: Texts, language: str, with_ids: bool) -> str:
    lines = []
    for key, text in entries.items():
        lines.append(NAMED[language].format(_label(key, text["name"], with_ids), text.get("tooltip", "")))
    return "\n".join(lines) or NONE[language]


def _label(key: str, name: str, with_ids: bool) -> str:
    """The name that the node shows, and the name in files and scripts if it is another one."""
    return f"**{name}** (`{key}`)" if with_ids and name != key else f"`{name}`" if with_ids else f"**{name}**"


def _replaced(page: str, heading: str, body: str) -> str:
    """The page with another text under a heading."""
    pattern = re.compile(rf"(?<=^## {re.escape(heading)}\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f'a help page has no heading "{heading}":\n{page[:200]}')
    return pattern.sub(lambda _: f"\n{body}\n\n", page, count=1)


# ------------------------------------------------------------------------------------------------ the command


def update(object_info: Texts, write: bool) -> list[str]:
    """What has to be done, in lines. With ``write``, the part that a script can do is done and reported."""
    english = definitions(object_info)
    found = _update_english(english, write)
    for language in LANGUAGES:
        texts = english if language == "en" else read_texts(language)
        if language != "en":
            found += [f"{language} {line}" for line in differences(english, texts)]
        for node in english:
            found += _update_page(node, texts.get(node), language, write)
    return found


def _update_english(english: Texts, write: bool) -> list[str]:
    path = LOCALES / "en" / "nodeDefs.json"
    before = dict(leaves(json.loads(path.read_text(encoding="utf-8")))) if path.exists() else {}
    after = dict(leaves(english))
    changed = [where for where in {**before, **after} if before.get(where) != after.get(where)]
    if write and (changed or not path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(english, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [f"en has changed, translate again: {where}: {after.get(where, '(gone)')}" for where in changed]


def _update_page(node: str, texts: Texts | None, language: str, write: bool) -> list[str]:
    path = page_path(node, language)
    if not path.exists():
        return [f"there is no {path.relative_to(REPO)}"]
    before = path.read_text(encoding="utf-8")
    after = with_lists(before, texts, language) if texts else before
    if after == before:
        return []
    if write:
        path.write_text(after, encoding="utf-8")
    return [f"{'wrote' if write else 'stale:'} the lists of {path.relative_to(REPO)}"]


def _object_info(server: str | None) -> Texts:
    from client import ComfyClient

    if server:
        answer: Texts = ComfyClient(server).get_json("/object_info")
        return answer
    from _env import enter_venv
    from _server import ComfyServer
    from host import prepare

    enter_venv()
    with ComfyServer(prepare(), cpu=True) as running:
        answer = running.client().get_json("/object_info")
    return answer


def main() -> int:
    """Run the command, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if there is something to do")
    parser.add_argument("--server", help="a running ComfyUI with this pack, such as http://127.0.0.1:8188")
    options = parser.parse_args()
    try:
        found = update(_object_info(options.server), write=not options.check)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(found) or "no text is missing")
    return 1 if options.check and found else 0


if __name__ == "__main__":
    raise SystemExit(main())
