"""Counts and logs runs in a thread beside them: the end of a run waits for neither, and no failure here reaches it."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..sampling.run_record import ChordsRun
from .finished_run import Stream, finished_run
from .metrics import Metrics
from .run_log import write_line
from .sdo_run import sdo_run

MAX_WAITING = 1000
"""Runs that wait to be counted. More are dropped, the oldest first: a disk that hangs must not fill the memory."""
SCRAPE_SECONDS = 2.0
"""How long a scrape waits for runs that are being counted. Those that are not counted by then are in the next one."""

NOT_INSTALLED = (
    "metrics need the package prometheus-client. Install it with the Python that runs ComfyUI: "
    "python -m pip install prometheus-client, and start ComfyUI again"
)

_log = logging.getLogger("chords")

Report = Callable[[ChordsRun], None]


class MetricsNotInstalled(RuntimeError):
    """prometheus-client is not installed. The message says how to install it."""


class Reporter:
    """Takes the runs of this server. Any thread may use it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Stream, ChordsRun | None, str | None]] = deque(maxlen=MAX_WAITING)
        self._came = threading.Event()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._work_lock = threading.Lock()  # held while runs are counted and logged
        self._metrics_lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._in_progress = 0
        self._metrics: Metrics | None = None
        self._metrics_missing = False
        self._logged: set[str] = set()

    @contextmanager
    def reported(self, stream: Stream) -> Iterator[Report]:
        """The block is one run of a stream. It calls what it gets with the record, if the run ends well."""
        record: list[ChordsRun] = []
        self._progress(1)
        try:
            yield record.append
        finally:
            self._progress(-1)
            self._submit(stream, replace(record[-1], hits=()) if record else None)  # without the pictures

    @contextmanager
    def reported_sdo(self, stream: Stream, node: str) -> Iterator[None]:
        """The block is one run of an SDO node, ``node``: one of `sdo_run.NODES`."""
        try:
            yield
        finally:
            self._submit(stream, None, node)

    def exposition(self) -> tuple[bytes, str]:
        """The metrics of all runs so far in Prometheus' text format, and its content type.

        Raises:
            MetricsNotInstalled: prometheus-client is not installed.
        """
        self.work_off(SCRAPE_SECONDS)
        metrics = self._counted_by()
        if metrics is None:
            raise MetricsNotInstalled(NOT_INSTALLED)
        return metrics.exposition()

    def work_off(self, timeout: float = -1) -> None:
        """Count and log the runs that wait, unless another thread does it for more than ``timeout`` seconds. Without
        a limit, wait for it."""
        if not self._work_lock.acquire(timeout=timeout):
            return
        try:
            while self._waiting:
                self._work(*self._waiting.popleft())
        finally:
            self._work_lock.release()

    def _submit(self, stream: Stream, record: ChordsRun | None, sdo_node: str | None = None) -> None:
        try:
            self._waiting.append((stream, record, sdo_node))
            self._came.set()
            if self._thread is None:
                self._start()
        except Exception as error:  # such as a thread that cannot be started: the next scrape counts the run
            self._log_once("could not begin to count runs", error)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="chords-monitoring", daemon=True)
                thread.start()
                self._thread = thread
                atexit.register(self.work_off, SCRAPE_SECONDS)

    def _run(self) -> None:
        while self._came.wait():
            self._came.clear()
            self.work_off()

    def _work(self, stream: Stream, record: ChordsRun | None, sdo_node: str | None) -> None:
        """Count and log one run. Call it with the lock held."""
        metrics = self._counted_by()
        try:
            if sdo_node is not None:
                search = sdo_run(stream, sdo_node)
                if metrics is not None:
                    metrics.add_sdo(search)
                write_line(search)
                return
            run = finished_run(stream, record)
            if metrics is not None:
                metrics.add(run)
            write_line(run)
        except Exception as error:
            self._log_once("could not count or log a run", error)
            if metrics is not None:
                metrics.failed()

    def _counted_by(self) -> Metrics | None:
        """The metrics; None where prometheus-client is not installed. It is imported at the first run, not before."""
        with self._metrics_lock:
            if self._metrics is None and not self._metrics_missing:
                try:
                    self._metrics = Metrics()
                    self._metrics.watch_progress(lambda: self._in_progress)
                except ImportError:
                    self._metrics_missing = True
            return self._metrics

    def _progress(self, change: int) -> None:
        with self._count_lock:
            self._in_progress += change

    def _log_once(self, what: str, error: Exception) -> None:
        """Each kind of failure once: a full disk would fill the log as well."""
        key = f"{what} ({type(error).__name__})"
        if key not in self._logged:
            self._logged.add(key)
            _log.warning("CHORDS: %s: %s; this is said once", what, error)


REPORTER = Reporter()
