"""Monitoring: what Prometheus, dashboards, alerts and log collectors get of the runs of a server."""

from __future__ import annotations

import builtins
import json
import logging
import math
import re
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pack_modules import module
from prometheus_client.parser import text_string_to_metric_families

core = module("chords_core")
fallbacks = module("nodes.host.monitoring.fallbacks")
finished = module("nodes.host.monitoring.finished_run")
metrics = module("nodes.host.monitoring.metrics")
reporter = module("nodes.host.monitoring.reporter")
run_log = module("nodes.host.monitoring.run_log")
records = module("nodes.host.sampling.run_record")

Sample = dict[str, float]


class Stream:
    """A stream as the pack's own has it when a run has ended."""

    def __init__(self, *events: dict[str, Any], queued: float | None = 1.5, picture: float | None = 0.5) -> None:
        self.prompt_id, self.node_id = "a prompt", "7"
        self.queued_seconds, self.first_picture_seconds = queued, picture
        self._events = list(events)

    def events(self) -> list[dict[str, Any]]:
        return self._events


def plan_event(method: str = "secant", steps: int = 20, devices: tuple[str, ...] = ("cuda:0", "cuda:1")) -> dict:
    return {"kind": "plan", "method": method, "steps": steps, "devices": list(devices)}


def done(status: str = "success", seconds: float = 3.0, error: str | None = None) -> dict[str, Any]:
    return {"kind": "done", "status": status, "seconds": seconds, "error": error}


def lane(device: str, state: str, error: str = "gone") -> dict[str, Any]:
    return {"kind": "lane", "lane": 0, "device": device, "state": state, "error": error}


def timeline(*marks: tuple[int, int, float]) -> Any:
    """Of (lane, round, seconds)."""
    evaluations = tuple(core.EvaluationMark(1, depth, depth, lane, 0.0, seconds) for lane, depth, seconds in marks)
    return core.Timeline(evaluations)


def record(**fields: Any) -> Any:
    """A window of 20 steps on two devices: 11 calls in a row, 20 calls in all."""
    plan = core.plan(20, 2, 2, tolerance=0.01)
    kept = {"method": "secant", "solver": "euler", "plan": plan, "devices": ("cuda:0", "cuda:1"), "estimate": 0.004}
    kept |= {"depth": 11, "evaluations": 20, "seconds": 3.0, "timeline": timeline((0, 1, 0.2), (1, 1, 0.4))}
    return records.ChordsRun(**{**kept, **fields})


def samples_of(text: bytes) -> Sample:
    """All samples of a scrape, by their names and labels as Prometheus writes them."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def scraped(subject: Any) -> Sample:
    text, content_type = subject.exposition()
    assert content_type.startswith("text/plain; version=")
    return samples_of(text)


def report(subject: Any, stream: Stream, run: Any = None) -> None:
    """What the sampler does."""
    with subject.reported(stream) as told:
        if run is not None:
            told(run)


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A reporter of its own, without a log of runs."""
    monkeypatch.delenv(run_log.VARIABLE, raising=False)
    return reporter.Reporter()


def test_a_scrape_has_the_figures_of_the_runs(subject: Any) -> None:
    report(subject, Stream(plan_event(), done()), record())
    report(subject, Stream(plan_event(), done(), queued=None), record(depth=8, evaluations=24, estimate=None))
    found = scraped(subject)
    assert found['chords_runs_total{method="secant",outcome="success"}'] == 2
    assert found['chords_calls_in_row_total{method="secant"}'] == 19
    assert found['chords_calls_in_row_saved_total{method="secant"}'] == (20 - 11) + (20 - 8)
    assert found['chords_model_calls_total{method="secant"}'] == 44
    assert found['chords_run_seconds_sum{method="secant"}'] == 6
    assert found['chords_error_estimate_bucket{le="0.005",method="secant"}'] == 1
    assert found['chords_error_estimate_bucket{le="0.002",method="secant"}'] == 0
    assert found['chords_error_estimate_unknown_total{method="secant"}'] == 1
    assert found['chords_call_seconds_sum{device="cuda:1"}'] == pytest.approx(0.8)
    assert found['chords_call_seconds_count{device="cuda:0"}'] == 2
    assert found["chords_queue_to_first_picture_seconds_count"] == 1  # the second was not the first of its prompt
    assert found["chords_queue_to_first_picture_seconds_sum"] == 2.0
    assert found["chords_monitoring_failures_total"] == 0


def test_series_that_an_alert_asks_for_are_there_before_the_first_run(subject: Any) -> None:
    """The rate of a counter that begins at 1 is 0: the first failure would not be seen."""
    found = scraped(subject)
    assert found['chords_runs_total{method="none",outcome="error"}'] == 0
    assert {name for name in found if name.startswith("chords_fallbacks_total")} == {
        f'chords_fallbacks_total{{reason="{each.value}"}}' for each in fallbacks.Fallback
    }


@pytest.mark.parametrize(
    ("events", "method", "outcome"),
    [
        ((plan_event(), done("interrupted")), "secant", "interrupted"),
        ((plan_event("stock"), done("error", error="no memory")), "stock", "error"),
        ((done("error", error="no memory"),), "none", "error"),
        ((plan_event("a new one"), done("a new one")), "none", "error"),
        ((), "none", "error"),
    ],
)
def test_a_run_that_does_not_end_well_counts_as_that_and_saves_nothing(
    subject: Any, events: tuple, method: str, outcome: str
) -> None:
    with pytest.raises(KeyError), subject.reported(Stream(*events)):
        raise KeyError("what the run raises is what its caller gets")
    found = scraped(subject)
    assert found[f'chords_runs_total{{method="{method}",outcome="{outcome}"}}'] == 1
    assert sum(value for name, value in found.items() if name.startswith("chords_runs_total")) == 1
    assert not any(name.startswith(("chords_calls_in_row_saved", "chords_run_seconds")) for name in found)


def test_lost_and_slow_lanes_count_by_device(subject: Any) -> None:
    events = (plan_event(), lane("cuda:1", "slow"), lane("cuda:1", "back"), lane("cuda:2", "lost"), done())
    lost = ("cuda:2 (gone)", "cuda:3 + cuda:4 (out of memory)")  # the second of a lane that went on without it
    report(subject, Stream(*events), record(lost_lanes=lost))
    found = scraped(subject)
    counted = {name: value for name, value in found.items() if name.startswith("chords_lane_events_total")}
    assert counted == {
        'chords_lane_events_total{device="cuda:1",state="slow"}': 1,
        'chords_lane_events_total{device="cuda:1",state="back"}': 1,
        'chords_lane_events_total{device="cuda:2",state="lost"}': 1,
        'chords_lane_events_total{device="cuda:3 + cuda:4",state="member_lost"}': 1,
    }


def test_a_call_of_several_rows_counts_once(subject: Any) -> None:
    marks = timeline((0, 1, 0.3), (1, 1, 0.3), (0, 2, 0.3), (1, 2, 0.3))
    report(subject, Stream(plan_event(), done()), record(devices=("cuda:0",), rows=2, timeline=marks))
    assert scraped(subject)['chords_call_seconds_count{device="cuda:0"}'] == 2


def test_labels_are_bounded(subject: Any) -> None:
    """Workers of a cluster come and go: each name would be a series for as long as the server runs."""
    for number in range(metrics.MAX_DEVICES + 50):
        devices = (f"ray:10.0.0.{number}/0",)
        events = (plan_event(devices=devices), lane(devices[0], "lost"), done())
        report(subject, Stream(*events), record(devices=devices, timeline=timeline((0, 1, 0.1))))
    devices = set(re.findall(r'device="([^"]+)"', " ".join(scraped(subject))))
    assert len(devices) == metrics.MAX_DEVICES + 1 and metrics.OTHER_DEVICES in devices


@pytest.mark.parametrize("estimate", [math.inf, math.nan])
def test_an_estimate_that_is_no_number_is_unknown(subject: Any, estimate: float) -> None:
    report(subject, Stream(plan_event(), done()), record(estimate=estimate))
    found = scraped(subject)
    assert found['chords_error_estimate_unknown_total{method="secant"}'] == 1
    assert 'chords_error_estimate_sum{method="secant"}' not in found


def test_a_run_without_any_picture_shows_its_result_at_its_end() -> None:
    run = finished.finished_run(Stream(plan_event("stock"), done(seconds=4.0), picture=None), record())
    assert run.first_picture_seconds == 5.5
    failed = finished.finished_run(Stream(plan_event("stock"), done("error"), picture=None), None)
    assert failed.first_picture_seconds is None


def iteration(number: int, of: int, evaluations: int) -> dict[str, Any]:
    return {"kind": "iteration", "iteration": number, "of": of, "evaluations": evaluations}


def report_sdo(subject: Any, stream: Stream, node: str = "optimizer") -> None:
    """What the SDO nodes do."""
    with subject.reported_sdo(stream, node):
        pass


def test_runs_of_sdo_nodes_count_by_themselves(subject: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are not runs of a sampler, whose shares of failures and of saved calls they would change."""
    monkeypatch.setenv(run_log.VARIABLE, str(tmp_path / "runs.jsonl"))
    report_sdo(subject, Stream(iteration(5, of=5, evaluations=40), done(seconds=90.0)))
    report_sdo(subject, Stream(iteration(2, of=9, evaluations=16), done("interrupted", seconds=20.0)), "trainer")
    with pytest.raises(KeyError), subject.reported_sdo(Stream(done("error", error="no memory")), "trainer"):
        raise KeyError("what the run raises is what its caller gets")
    found = {name: value for name, value in scraped(subject).items() if value}
    counted = {name: value for name, value in found.items() if not name.endswith("_created") and "bucket" not in name}
    assert {name: value for name, value in counted.items() if "_created" not in name} == {
        'chords_sdo_runs_total{node="optimizer",outcome="success"}': 1,
        'chords_sdo_runs_total{node="trainer",outcome="interrupted"}': 1,
        'chords_sdo_runs_total{node="trainer",outcome="error"}': 1,
        'chords_sdo_model_calls_total{node="optimizer"}': 40,
        'chords_sdo_model_calls_total{node="trainer"}': 16,
        'chords_sdo_run_seconds_count{node="optimizer"}': 1,
        'chords_sdo_run_seconds_sum{node="optimizer"}': 90,
    }
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["event"], line["node"], line["outcome"]) for line in lines] == [
        ("sdo_run", "optimizer", "success"),
        ("sdo_run", "trainer", "interrupted"),
        ("sdo_run", "trainer", "error"),
    ]
    assert lines[1]["iterations"] == 2 and lines[1]["of"] == 9 and lines[1]["model_calls"] == 16
    assert lines[2]["error"] == "no memory" and lines[0]["prompt_id"] == "a prompt" and "time" in lines[0]


def test_runs_in_progress(subject: Any) -> None:
    with subject.reported(Stream(done())):
        assert scraped(subject)["chords_runs_in_progress"] == 1
    assert scraped(subject)["chords_runs_in_progress"] == 0


def test_without_the_library_it_says_how_to_install_it(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And runs are logged all the same."""
    imported = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    report(subject, Stream(plan_event(), done()), record())
    with pytest.raises(reporter.MetricsNotInstalled, match="python -m pip install prometheus-client"):
        subject.exposition()


def test_the_end_of_a_run_waits_for_nothing(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a disk that hangs, and not for the counting: that is done in another thread."""
    begun, over, threads = threading.Event(), threading.Event(), []

    def write(run: Any) -> None:
        threads.append(threading.current_thread())
        begun.set()
        assert over.wait(120)

    monkeypatch.setattr(reporter, "write_line", write)
    monkeypatch.setattr(reporter, "SCRAPE_SECONDS", 0.05)
    began, seconds = time.monotonic(), []
    try:
        for _ in range(5):
            before = time.perf_counter()
            report(subject, Stream(plan_event(), done()), record())
            seconds.append(time.perf_counter() - before)
        assert min(seconds) < 0.5  # the fastest: on a busy machine another process may take the processor for long
        assert begun.wait(60)
        subject.exposition()  # waits for a short time only
        assert time.monotonic() - began < 60  # it hangs for longer
        assert len(threads) == 1 and threading.current_thread() not in threads
    finally:
        over.set()
    subject.work_off()
    assert scraped(subject)['chords_runs_total{method="secant",outcome="success"}'] == 5


def test_no_failure_reaches_a_run(
    subject: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A folder that is not there, and a stream of another form. It is said once, not for each run."""
    monkeypatch.setenv(run_log.VARIABLE, str(tmp_path / "missing" / "runs.jsonl"))
    for _ in range(3):
        report(subject, Stream(plan_event(), done()), record())
    subject.work_off()
    (said,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "could not count or log a run" in said.getMessage() and "missing" in said.getMessage()
    monkeypatch.delenv(run_log.VARIABLE)
    report(subject, Stream({"no": "kind"}), record())
    assert scraped(subject)["chords_monitoring_failures_total"] == 4


def test_a_thread_that_cannot_start_is_no_failure_of_the_run(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        report(subject, Stream(plan_event(), done()), record())
    assert scraped(subject)['chords_runs_total{method="secant",outcome="success"}'] == 1


def test_pictures_are_not_kept(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that wait for a slow disk would hold the memory of their latents."""
    kept = []
    monkeypatch.setattr(subject, "_submit", lambda stream, run: kept.append(run))
    report(subject, Stream(done()), record(hits=(records.RunHit(1, 11, torch.zeros(1, 4, 8, 8)),)))
    assert kept[0].hits == ()


# --- The log of runs


def test_each_run_is_a_line_of_json(subject: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    monkeypatch.setenv(run_log.VARIABLE, str(file))
    run = record(message="two\nlines", fallbacks=("copies",), lost_lanes=("cuda:1 (gone)",), estimate=math.nan)
    report(subject, Stream(plan_event(), lane("cuda:1", "lost"), done()), run)
    subject.work_off()
    file.rename(tmp_path / "runs.1")  # as programs do that rotate logs
    report(subject, Stream(plan_event(), done("error", error="no memory")))
    subject.work_off()
    (first,) = map(json.loads, (tmp_path / "runs.1").read_text(encoding="utf-8").splitlines())
    assert first["event"] == "chords_run" and first["prompt_id"] == "a prompt" and first["node_id"] == "7"
    assert first["outcome"] == "success" and first["method"] == "secant" and first["solver"] == "euler"
    assert (first["steps"], first["calls_in_row"], first["calls_in_row_saved"], first["model_calls"]) == (20, 11, 9, 20)
    assert first["message"] == "two\nlines" and first["fallbacks"] == ["copies"] and first["estimate"] is None
    assert first["lanes"] == [{"device": "cuda:1", "state": "lost"}] and first["lost_lanes"] == ["cuda:1 (gone)"]
    assert first["call_seconds"] == {"cuda:0": 0.2, "cuda:1": 0.4} and first["first_picture_seconds"] == 2.0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    (second,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert second["outcome"] == "error" and second["error"] == "no memory" and second["devices"] == ["cuda:0", "cuda:1"]


def test_lines_go_to_the_servers_log_if_that_is_named(
    subject: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(run_log.VARIABLE, "log")
    with caplog.at_level(logging.INFO, "chords"):
        report(subject, Stream(plan_event(), done()), record(message="100 % of it"))
        subject.work_off()
    (line,) = [each.getMessage() for each in caplog.records if each.getMessage().startswith("{")]
    assert json.loads(line)["message"] == "100 % of it"


def test_without_the_setting_nothing_is_logged(subject: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        report(subject, Stream(plan_event(), done()), record())
        subject.work_off()
    assert not caplog.records


# --- Classes of fall-backs


def _sequential(*reasons: Any) -> Any:
    return core.SequentialPlan(20, reasons)


def test_reasons_have_classes() -> None:
    known = fallbacks.Fallbacks()
    patch = known.known(fallbacks.Fallback.PATCHES, "a patch keeps state")
    assert known.known(fallbacks.Fallback.COPIES, None) is None
    assert known.of(_sequential(patch)) == ("patches",)
    assert known.of(_sequential("without it, set fidelity to near", patch)) == ("patches",)  # advice is none
    assert known.of(_sequential(core.Reason(core.Cause.ONE_LANE)), [f"not by tokens: {patch}"]) == ("patches",)
    assert known.of(_sequential(core.Reason(core.Cause.TOO_FEW_STEPS))) == ("no_gain",)
    assert known.of(_sequential("a reason of a newer version")) == ("other",)
    assert known.of(_sequential("cuda:0 and cuda:1 share each guided call"), shared=True) == ()


@pytest.mark.parametrize("cause", [core.Cause.ONE_CORE_REQUESTED, core.Cause.ONE_LANE, core.Cause.EXACT])
def test_what_was_asked_for_is_no_fallback(cause: Any) -> None:
    assert fallbacks.Fallbacks().of(_sequential(core.Reason(cause))) == ()
    assert fallbacks.Fallbacks().of(core.plan(20, 4, 4, tolerance=0.01)) == ()


def test_fallbacks_are_counted(subject: Any) -> None:
    run = replace(record(), method="stock", plan=_sequential("x"), fallbacks=("sampler", "memory"))
    report(subject, Stream(plan_event("stock"), done()), run)
    found = scraped(subject)
    assert found['chords_fallbacks_total{reason="sampler"}'] == found['chords_fallbacks_total{reason="memory"}'] == 1
    assert found['chords_fallbacks_total{reason="copies"}'] == 0


# --- The files for Prometheus and Grafana


OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
PAGE = OPERATIONS.parent / "operations.md"


def _dashboard() -> dict[str, Any]:
    return json.loads((OPERATIONS / "grafana_dashboard.json").read_text(encoding="utf-8"))


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPERATIONS / "prometheus_alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _all_series(subject: Any) -> set[str]:
    """The names of all series that a server with some runs has."""
    events = (plan_event(), lane("cuda:1", "lost"), done())
    report(subject, Stream(*events), record())
    report(subject, Stream(*events), record(estimate=None))
    report_sdo(subject, Stream(iteration(5, of=5, evaluations=40), done()))
    return {name.partition("{")[0] for name in scraped(subject)}


def _queried(expression: str) -> set[str]:
    return set(re.findall(r"\bchords_\w+", expression))


def test_dashboard_and_alerts_ask_for_series_that_exist(subject: Any) -> None:
    expressions = [target["expr"] for panel in _dashboard()["panels"] for target in panel.get("targets", ())]
    expressions += [rule["expr"] for rule in _rules()]
    assert len(expressions) > 15
    missing = set().union(*map(_queried, expressions)) - _all_series(subject)
    assert not missing


def test_each_series_is_on_the_page_and_on_the_dashboard(subject: Any) -> None:
    names = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in _all_series(subject)}
    page = PAGE.read_text(encoding="utf-8")
    shown = " ".join(target["expr"] for panel in _dashboard()["panels"] for target in panel.get("targets", ()))
    assert not {name for name in names if name not in page}
    assert not {name for name in names if name not in shown}


def test_each_alert_says_what_to_do(subject: Any) -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^#+ (.+)$", page, re.M)
    }
    for rule in _rules():
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("warning", "critical")
        anchor = rule["annotations"]["runbook"].removeprefix("docs/operations.md#")
        assert anchor in headings, rule["alert"]
        assert f"`{rule['alert']}`" in page


def test_each_class_of_fallbacks_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [each.value for each in fallbacks.Fallback if f"| `{each.value}` |" not in page]


def _promtool(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("NOT CHECKED BY PROMTOOL: it is not installed (Debian: apt-get install prometheus)")
    return subprocess.run([program, *arguments], input=given, capture_output=True, check=False)


def test_promtool_takes_the_alerts() -> None:
    told = _promtool("check", "rules", str(OPERATIONS / "prometheus_alerts.yml"))
    assert told.returncode == 0, told.stderr


def test_promtool_takes_a_scrape(subject: Any) -> None:
    _all_series(subject)
    told = _promtool("check", "metrics", given=subject.exposition()[0])
    assert told.returncode == 0 and not told.stderr, told.stderr


def test_promtool_fires_the_alerts_when_it_should() -> None:
    told = _promtool("test", "rules", str(OPERATIONS / "prometheus_alerts_test.yml"))
    assert told.returncode == 0, told.stderr + told.stdout
