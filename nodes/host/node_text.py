"""The text on the node that runs. It is the node's newest text until its next run, also on a page that is loaded
again: the server keeps it (docs/headless.md has the protocol)."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from comfy.model_management import InterruptProcessingException
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from .phrases import Card

_WORKFLOWS_KEPT = 64
_NODES_KEPT = 256  # of each workflow
_RESULTS_KEPT = 1024


@dataclass(frozen=True, eq=False)
class EndedPrompt:
    """A prompt that has ended.

    Attributes:
        prompt_id: its id.
        graph: its nodes.
        had: the ids of the nodes whose results the host had from before, so that they did not run again.
    """

    prompt_id: str
    graph: Mapping[str, Any]
    had: frozenset[str]


class NodeTexts:
    """The newest text of each node of the newest workflows. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = time.time_ns() // 1_000_000  # higher than the numbers of the server before a restart
        self._workflows: OrderedDict[str, OrderedDict[str, dict[str, Any]]] = OrderedDict()
        self._results: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()

    def keep(self, graph: Mapping[str, Any], text: dict[str, Any]) -> dict[str, Any]:
        """Keep a text in place of the node's earlier one. Without a workflow, nothing is kept.

        Args:
            graph: the nodes of the prompt.
            text: as pages get it, without its number.

        Returns:
            The text as pages get it. Of two texts, the one with the higher ``number`` is newer.
        """
        workflow_id, node_id = text["workflow_id"], text["node_id"]
        with self._lock:
            self._count += 1
            shown = {**text, "number": self._count}
            if workflow_id is not None:
                nodes = self._workflows.setdefault(workflow_id, OrderedDict())
                _put(nodes, node_id, shown, _NODES_KEPT)
                _put(self._workflows, workflow_id, nodes, _WORKFLOWS_KEPT)
                _put(self._results, (workflow_id, node_id, _recipe(graph, node_id)), shown, _RESULTS_KEPT)
            return shown

    def of(self, workflow_id: str, ended: Sequence[EndedPrompt] = ()) -> list[dict[str, Any]]:
        """The texts of a workflow; empty for an unknown one. A node that did not run again in the newest prompt,
        because the host had its result, has the text of that result.

        Args:
            ended: the prompts of the workflow that have ended, the newest first.
        """
        with self._lock:
            return [self._of_newest(shown, ended) for shown in self._workflows.get(workflow_id, {}).values()]

    def _of_newest(self, shown: dict[str, Any], ended: Sequence[EndedPrompt]) -> dict[str, Any]:
        node_id, ids = shown["node_id"], [prompt.prompt_id for prompt in ended]
        since = ids.index(shown["prompt_id"]) if shown["prompt_id"] in ids else 0  # 0: it is running
        had = next((prompt for prompt in ended[:since] if node_id in prompt.had), None)
        if had is None:
            return shown
        key = shown["workflow_id"], node_id, _recipe(had.graph, node_id)
        return {**self._results.get(key, shown), "number": shown["number"]}


def _put(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _recipe(graph: Mapping[str, Any], node_id: str) -> str:
    """A digest of what decides the result of a node: its inputs, and those of all nodes before it. Many are kept, and
    a graph may have megabytes of text in it."""
    found: dict[str, Any] = {}
    waiting = [node_id]
    while waiting:
        name = waiting.pop()
        if name in graph and name not in found:
            inputs = graph[name].get("inputs", {})
            found[name] = graph[name].get("class_type"), inputs
            links = (value[0] for value in inputs.values() if isinstance(value, list) and len(value) == 2)
            waiting += [each for each in links if isinstance(each, str)]
    return sha256(json.dumps(found, sort_keys=True, default=str).encode()).hexdigest()


TEXTS = NodeTexts()


def show_text(text: str, card: Card | None = None) -> None:
    """Show ``text`` on the running node: to the client that sent the prompt, and to all if it named none.

    ``card``: the same as pages show it; None: the text, which ends its title with its first colon.
    """
    context, server = get_executing_context(), PromptServer.instance
    if context is None or server is None:
        return
    prompt = get_progress_state().dynprompt
    node_id = prompt.get_display_node_id(context.node_id)
    class_type = prompt.get_node(node_id)["class_type"] if prompt.has_node(node_id) else ""
    item = _running(server, context.prompt_id)
    shown = {
        "prompt_id": context.prompt_id,
        "workflow_id": None if item is None else _workflow_id(item),
        "node_id": node_id,
        "class_type": class_type,
        "text": text,
        "card": (card or Card.of_text(text)).encoded(),
    }
    server.send_sync("chords_text", TEXTS.keep({} if item is None else item[2], shown), server.client_id)


def show_lines(title: str, detail: str) -> None:
    """Show a title and a detail on the running node."""
    show_text(f"{title}: {detail}", Card((title,), (detail,)))


@contextmanager
def failure_shown(shown: bool = True) -> Iterator[None]:
    """If the block is cancelled or fails, the text says so. The one before it reads as if the node still ran."""
    try:
        yield
    except (Exception, InterruptProcessingException) as error:  # the host's interrupt is not an Exception
        if shown:
            cancelled = isinstance(error, InterruptProcessingException)
            show_text("cancelled" if cancelled else f"failed: {str(error).strip() or type(error).__name__}")
        raise


def texts_of(workflow_id: str) -> list[dict[str, Any]]:
    """The texts of a workflow, as they belong to its newest results."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        entries = list(reversed(queue.history.values()))
    return TEXTS.of(workflow_id, [_ended(entry) for entry in entries if _workflow_id(entry["prompt"]) == workflow_id])


def _ended(entry: Mapping[str, Any]) -> EndedPrompt:
    """A prompt of the host's history."""
    messages = (entry.get("status") or {}).get("messages", ())
    had = (data.get("nodes", ()) for kind, data in messages if kind == "execution_cached")
    return EndedPrompt(entry["prompt"][1], entry["prompt"][2], frozenset(next(had, ())))


def _running(server: Any, prompt_id: str) -> Any:
    """The running prompt of this id, as it is in the host's queue."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    return next((item for item in running if item[1] == prompt_id), None)


def _workflow_id(item: Any) -> str | None:
    """The id of the workflow that a page sent with a prompt; None if the prompt came without one."""
    value: Any = item[3]
    for name in ("extra_pnginfo", "workflow", "id"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
