"""A cluster of one node, made by `ray start --head`, that can end and come back at the same address."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from processes import named

ENOUGH_SECONDS = 120.0
PORTS = range(20_000, 32_000)  # below those that systems give to outgoing connections, which could take ours meanwhile
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}


class Head:
    """A context manager. ``folder``: for the log of the cluster."""

    def __init__(self, folder: Path, cores: int) -> None:
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder, self._cores = folder, cores
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: list[psutil.Process] = []

    def start(self) -> None:
        """Start the cluster, and wait until it runs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = [f"--port={self.port}", "--node-ip-address=127.0.0.1", f"--num-cpus={self._cores}"]
        options += ["--include-dashboard=false", "--block", f"--temp-dir={self._temp}"]
        ray = str(Path(sys.executable).parent / "ray")
        with (self._folder / "head.log").open("ab") as log:
            self._process = subprocess.Popen(
                [ray, "start", "--head", *options],
                env={**os.environ, **ENVIRONMENT},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + ENOUGH_SECONDS
        while b"--block" not in self._said():
            assert time.monotonic() < end and self._process.poll() is None, self._said().decode()
            time.sleep(0.1)
        self._ours += self.processes()

    @property
    def running(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def _said(self) -> bytes:
        """The output since the last start. When the cluster runs, the output mentions --block."""
        return (self._folder / "head.log").read_bytes().rpartition(b"Local node IP")[2]

    def processes(self) -> list[psutil.Process]:
        """The cluster's processes, and those of its workers."""
        try:
            head = psutil.Process(self._process.pid) if self._process is not None else None
            return [] if head is None else [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def named(self, name: str) -> psutil.Process:
        """The cluster's process of that name."""
        return named(self.processes(), name)[0]

    def kill(self) -> None:
        """Kill all processes at once, as if the machine were switched off."""
        ours = [*self._ours, *self.processes()]
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
        psutil.wait_procs(ours, timeout=ENOUGH_SECONDS)
        self._ours, self._process = [], None
        (self._folder / "head.log").write_bytes(b"")

    def __enter__(self) -> Head:
        self._temp = tempfile.mkdtemp(prefix="ray")  # a short path, because Ray creates sockets in it
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


def _free_port() -> int:
    """A port that is free now, and stays so while the cluster does not run."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
