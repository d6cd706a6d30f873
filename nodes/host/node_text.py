"""The text on the node that runs. It is the node's newest text until its next run, also on a page that is loaded
again: the server keeps it (docs/headless.md has the protocol)."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy.model_management import InterruptProcessingException
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from .phrases import Card

_WORKFLOWS_KEPT = 64
_NODES_KEPT = 256  # of each workflow


class NodeTexts:
    """The newest text of each node of the newest workflows. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = time.time_ns() // 1_000_000  # higher than the numbers of the server before a restart
        self._workflows: OrderedDict[str, OrderedDict[str, dict[str, Any]]] = OrderedDict()

    def keep(self, workflow_id: str | None, node_id: str, class_type: str, text: str, card: Card) -> dict[str, Any]:
        """Keep a text in place of the node's earlier one. Without a workflow, nothing is kept.

        Returns:
            The text as pages get it. Of two texts, the one with the higher ``number`` is newer.
        """
        with self._lock:
            self._count += 1
            node = {"node_id": node_id, "class_type": class_type}
            content = {"text": text, "card": card.encoded()}
            shown = {"workflow_id": workflow_id, **node, "number": self._count, **content}
            if workflow_id is not None:
                nodes = self._workflows.setdefault(workflow_id, OrderedDict())
                nodes[node_id] = shown
                nodes.move_to_end(node_id)
                self._workflows.move_to_end(workflow_id)
                while len(nodes) > _NODES_KEPT:
                    nodes.popitem(last=False)
                while len(self._workflows) > _WORKFLOWS_KEPT:
                    self._workflows.popitem(last=False)
            return shown

    def of(self, workflow_id: str) -> list[dict[str, Any]]:
        """The texts of a workflow; empty for an unknown one."""
        with self._lock:
            return list(self._workflows.get(workflow_id, {}).values())


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
    shown = TEXTS.keep(_workflow_id(server, context.prompt_id), node_id, class_type, text, card or Card.of_text(text))
    server.send_sync("chords_text", {"prompt_id": context.prompt_id, **shown}, server.client_id)


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


def _workflow_id(server: Any, prompt_id: str) -> str | None:
    """The id of the workflow that a page sent with a running prompt; None if the prompt came without one."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    value: Any = next((item[3] for item in running if item[1] == prompt_id), None)
    for name in ("extra_pnginfo", "workflow", "id"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
