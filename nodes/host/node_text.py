"""A line of text on the node that runs."""

from __future__ import annotations

from comfy_execution.utils import get_executing_context
from server import PromptServer


def show_text(text: str) -> None:
    """Show ``text`` on the running node, to the client that sent the prompt."""
    context, server = get_executing_context(), PromptServer.instance
    if context is not None and server is not None and server.client_id is not None:
        server.send_progress_text(text, context.node_id, server.client_id)
