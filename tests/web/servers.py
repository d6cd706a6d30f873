"""Live ComfyUIs for the browser tests: one for each frontend."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from _env import venv_python
from _newest_frontend import newest_frontend
from _server import ComfyServer


class Servers(contextlib.ExitStack):
    """ComfyUIs with this pack, on the CPU. Each starts when it is asked for first, and runs until this ends.

    Args:
        host: the ComfyUI folder.
        arguments: further arguments for its main.py.
    """

    def __init__(self, host: Path, arguments: Sequence[str]) -> None:
        super().__init__()
        self._host, self._arguments = host, arguments
        self._running: dict[str, ComfyServer] = {}

    def with_frontend(self, name: str) -> ComfyServer:
        """The server of a frontend: "pinned", which the host asks for, or "newest"."""
        if name not in self._running:
            chosen = [] if name == "pinned" else ["--front-end-root", str(newest_frontend())]
            arguments = [*self._arguments, *chosen]
            server = ComfyServer(self._host, threads=1, cpu=True, python=str(venv_python()), arguments=arguments)
            self._running[name] = self.enter_context(server)
        return self._running[name]
