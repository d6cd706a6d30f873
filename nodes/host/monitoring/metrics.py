"""Metrics of all runs since the server started, for Prometheus. Needs prometheus-client, which is optional.

Every label has a fixed set of values, or a limited number of them. docs/operations.md says what each metric is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .fallbacks import Fallback
from .finished_run import METHODS, OUTCOMES, FinishedRun
from .sdo_run import NODES, SdoRun

MAX_DEVICES = 64
"""Names of devices that get a label of their own. Workers of a cluster may come and go; later names count as one."""
OTHER_DEVICES = "other"
LANE_STATES = ("lost", "slow", "back", "member_lost")

_RUN_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_PICTURE_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_SDO_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)
_CALL_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ESTIMATES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)


class Metrics:
    """The metrics, in a registry of their own: other packs may use the library's common one.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry(auto_describe=True)
        by_method: dict[str, Any] = {"labelnames": ("method",), "registry": self._registry}
        self._in_progress = Gauge(
            "chords_runs_in_progress", "Runs that have begun and not ended.", registry=self._registry
        )
        self._runs = Counter("chords_runs", "Runs that have ended.", ("method", "outcome"), registry=self._registry)
        self._seconds = Histogram(
            "chords_run_seconds", "Seconds of the runs that ended well.", buckets=_RUN_SECONDS, **by_method
        )
        self._calls = Counter("chords_model_calls", "All model calls of the runs that ended well.", **by_method)
        self._depth = Counter(
            "chords_calls_in_row", "Model calls in a row that the runs took that ended well.", **by_method
        )
        self._saved = Counter(
            "chords_calls_in_row_saved", "Model calls in a row that those runs took less than KSampler.", **by_method
        )
        self._estimates = Histogram(
            "chords_error_estimate",
            "Estimated relative RMS difference of the latents from KSampler's.",
            buckets=_ESTIMATES,
            **by_method,
        )
        self._unknown = Counter(
            "chords_error_estimate_unknown", "Runs that ended well without an estimate of the difference.", **by_method
        )
        self._lanes = Counter(
            "chords_lane_events",
            "Lanes that were lost, slow or back, and devices that were lost by a lane that went on.",
            ("device", "state"),
            registry=self._registry,
        )
        self._fallbacks = Counter(
            "chords_fallbacks",
            "Runs that did less in parallel than the pack can, by class of the reason.",
            ("reason",),
            registry=self._registry,
        )
        self._call_seconds = Histogram(
            "chords_call_seconds",
            "Seconds of a model call by the device that made it.",
            ("device",),
            buckets=_CALL_SECONDS,
            registry=self._registry,
        )
        self._picture = Histogram(
            "chords_queue_to_first_picture_seconds",
            "Seconds from the arrival of a prompt to the first picture or result of its first run.",
            buckets=_PICTURE_SECONDS,
            registry=self._registry,
        )
        self._sdo_runs = Counter(
            "chords_sdo_runs", "Runs of SDO nodes that have ended.", ("node", "outcome"), registry=self._registry
        )
        self._sdo_seconds = Histogram(
            "chords_sdo_run_seconds",
            "Seconds of the runs of SDO nodes that ended well.",
            ("node",),
            buckets=_SDO_SECONDS,
            registry=self._registry,
        )
        self._sdo_calls = Counter(
            "chords_sdo_model_calls", "Model calls of the runs of SDO nodes.", ("node",), registry=self._registry
        )
        self._failures = Counter(
            "chords_monitoring_failures", "Runs that could not be counted or logged.", registry=self._registry
        )
        self._devices: set[str] = set()
        self._at_zero()

    def _at_zero(self) -> None:
        """Make the series whose labels are known: a rate needs a value from before the first event."""
        for method in METHODS:
            for outcome in OUTCOMES:
                self._runs.labels(method, outcome)
        for fallback in Fallback:
            self._fallbacks.labels(fallback.value)
        for node in NODES:
            for outcome in OUTCOMES:
                self._sdo_runs.labels(node, outcome)

    def watch_progress(self, count: Callable[[], float]) -> None:
        """``count``: a function that gives the number of runs in progress at each scrape."""
        self._in_progress.set_function(count)

    def add(self, run: FinishedRun) -> None:
        """Count a run that has ended."""
        self._runs.labels(run.method, run.outcome).inc()
        for device, state in run.lanes:
            self._lanes.labels(self._device(device), state if state in LANE_STATES else "lost").inc()
        if run.first_picture_seconds is not None:
            self._picture.observe(run.first_picture_seconds)
        record = run.record
        if record is None:
            return
        self._seconds.labels(run.method).observe(run.seconds)
        self._calls.labels(run.method).inc(record.evaluations)
        self._depth.labels(run.method).inc(record.depth)
        self._saved.labels(run.method).inc(run.saved)
        if record.estimate is None or not math.isfinite(record.estimate):
            self._unknown.labels(run.method).inc()
        else:
            self._estimates.labels(run.method).observe(record.estimate)
        for reason in record.fallbacks:
            self._fallbacks.labels(reason).inc()
        for device, seconds in run.call_seconds.items():
            observed = self._call_seconds.labels(self._device(device))
            for each in seconds:
                observed.observe(each)

    def add_sdo(self, run: SdoRun) -> None:
        """Count a run of an SDO node that has ended."""
        self._sdo_runs.labels(run.node, run.outcome).inc()
        self._sdo_calls.labels(run.node).inc(run.model_calls)
        if run.outcome == "success":
            self._sdo_seconds.labels(run.node).observe(run.seconds)

    def failed(self) -> None:
        """Count a run that could not be counted or logged."""
        self._failures.inc()

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _device(self, name: str) -> str:
        if name not in self._devices and len(self._devices) >= MAX_DEVICES:
            return OTHER_DEVICES
        self._devices.add(name)
        return name
