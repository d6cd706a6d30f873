/** What is known of the runs, built from the event stream (docs/headless.md). No page and no server in here. */

import { say } from "./words.js";

const RUNS_KEPT = 64;

let runsBegun = 0;

/** One run of one sampler node. */
export class Run {
  constructor(promptId, nodeId, order = ++runsBegun) {
    this.promptId = promptId;
    this.nodeId = nodeId;
    this.order = order; // of two runs for one node, the later one is shown
    this.viewers = null; // execution ids of the preview nodes it feeds; null: not known yet
    this.workflowId = null;
    this.plan = null;
    this.step = null;
    this.hits = []; // ascending by index; `image` once there is a picture, `final` by viewer when it is decoded
    this.lost = [];
    this.request = null; // an Accept of this page: {pending} or {index} or {error}
    this.accepted = null;
    this.done = null;
  }

  get running() {
    return this.done === null;
  }

  /** Whether ending it early can bring anything. */
  get acceptable() {
    return this.running && this.plan !== null && this.plan.method !== "stock" && this.accepted === null && !asked(this);
  }

  get newest() {
    return this.hits.at(-1) ?? null;
  }

  hit(index) {
    return this.hits.find((hit) => hit.index === index) ?? null;
  }

  /** Take in one event. An event may come twice: live, and from the server's record. */
  apply(event) {
    switch (event.kind) {
      case "plan":
        this.plan = event;
        break;
      case "step":
        if (!this.step || event.depth >= this.step.depth) this.step = event;
        break;
      case "hit":
        this.#merge(event);
        break;
      case "picture":
        this.#merge({ index: event.index, image: event.image });
        break;
      case "lane":
        this.lost = this.lost.filter((lane) => lane.lane !== event.lane);
        if (event.state !== "back") this.lost.push(event);
        break;
      case "accepted":
        this.accepted = event;
        break;
      case "done":
        this.done = event;
        break;
    }
  }

  #merge(fields) {
    const known = this.hit(fields.index);
    if (known) {
      Object.assign(known, fields);
    } else {
      this.hits.push({ ...fields });
      this.hits.sort((a, b) => a.index - b.index);
    }
  }
}

/** The newest runs of this page. */
export class Runs {
  #runs = new Map();

  /** In the order they began. */
  get all() {
    return [...this.#runs.values()];
  }

  of(promptId) {
    return this.all.filter((run) => run.promptId === promptId);
  }

  /** Take in an event as it comes; a plan begins a new run, also of a node that ran before in the same prompt. */
  live(event) {
    const run = event.kind === "plan" ? this.#begin(event) : this.find(event);
    run.apply(event);
    return run;
  }

  /** Take in the server's record of a prompt, after which live events may already have been seen. */
  replay(events) {
    const touched = new Set();
    for (const event of events) {
      const run = this.find(event);
      run.apply(event);
      touched.add(run);
    }
    return touched;
  }

  /** The run an event is about; a new one if it is not known yet. */
  find(event) {
    return this.#runs.get(keyOf(event)) ?? this.#begin(event);
  }

  #begin(event) {
    const key = keyOf(event);
    const run = new Run(event.prompt_id, event.node_id);
    this.#runs.delete(key); // to the end of the order
    this.#runs.set(key, run);
    for (const oldest of this.#runs.keys()) {
      if (this.#runs.size <= RUNS_KEPT) break;
      this.#runs.delete(oldest);
    }
    return run;
  }
}

/** Whether there was anything to choose from. */
const chosen = (run) => run.accepted !== null && (run.plan?.cores > 1 || run.accepted.by === "request");
const keyOf = (event) => JSON.stringify([event.prompt_id, event.node_id]);
const asked = (run) => run.request !== null && run.request.error === undefined;

// ------------------------------------------------------------------------------------------------ in words

/** "draft", "hit 2 of 4" (of a window, "hit 2"), or "result" where there is but one. */
export function nameOf(hit, run, brief = false) {
  if (hit.index === 0) return say("draft");
  const cores = run.plan?.cores;
  if (cores === 1 || run.plan?.method === "stock") return say("result");
  const most = run.plan?.method === "secant" ? null : cores; // how many a window has, the picture decides
  const { index } = hit;
  return most && !brief ? say("hit {index} of {most}", { index, most }) : say("hit {index}", { index });
}

/** A hit and how it came about, part by part. */
export function describeHit(hit, run) {
  const parts = [nameOf(hit, run)];
  if (hit.core > 0 && run.plan?.cores > 1) parts.push(say("core {core}", hit));
  if (hit.depth !== undefined) parts.push(inCalls(hit.depth));
  if (Number.isFinite(hit.seconds)) parts.push(inSeconds(hit.seconds));
  if (Number.isFinite(hit.change)) parts.push(inPercent(hit.change));
  return parts;
}

/** How the run stands. */
export function describeRun(run) {
  if (run === null) return say("Results appear here while the sampler works.");
  const parts = [progressOf(run)];
  if (run.newest) parts.push(...reasonOf(run)); // before that it stands where the picture will be
  if (run.request?.error) parts.push(say("not accepted: {error}", run.request));
  for (const { state, device, error } of run.lost) parts.push(`${say(state)} ${device ?? say("a device")}: ${error}`);
  return parts.join(" · ");
}

/** Why it does not run in parallel, if it does not. */
export const reasonOf = (run) => (run.plan && !["chords", "secant"].includes(run.plan.method) ? [run.plan.message] : []);

function progressOf(run) {
  if (run.done) return endOf(run);
  if (chosen(run)) return `${acceptedOf(run)} · ${say("finishing")}`;
  if (asked(run)) return say("taking the best so far…");
  return run.step ? say("{depth} of {of} calls", run.step) : say("sampling…");
}

function endOf(run) {
  const { status, seconds, depth, evaluations, error } = run.done;
  const spent = [];
  if (depth) {
    const calls = inCalls(depth);
    spent.push(evaluations > depth ? say("{calls} in a row, {evaluations} in all", { calls, evaluations }) : calls);
  }
  if (seconds) spent.push(inSeconds(seconds));
  const what = {
    success: chosen(run) ? acceptedOf(run) : say("done"),
    interrupted: say("cancelled"),
    error: error ? say("failed: {error}", { error }) : say("failed"),
  };
  return [what[status] ?? status, ...spent].join(" · ");
}

function acceptedOf(run) {
  const name = nameOf(run.accepted, run, true);
  return run.accepted.by === "request" ? say("accepted {name} on request", { name }) : say("accepted {name}", { name });
}

const inCalls = (count) => (count === 1 ? say("1 call") : say("{count} calls", { count }));
const inSeconds = (seconds) => say("{time} s", { time: seconds.toFixed(seconds < 1 ? 2 : seconds < 10 ? 1 : 0) });

function inPercent(change) {
  const percent = 100 * change;
  if (percent === 0) return say("unchanged");
  if (percent < 0.01) return say("changed < 0.01 %");
  return say("changed {percent} %", { percent: percent < 10 ? Number(percent.toPrecision(2)) : Math.round(percent) });
}

/** Whether the run ends with this hit. */
export const isTaken = (hit, run) => chosen(run) && run.accepted.index === hit.index;

/** The label of the Accept button. */
export function acceptLabel(run) {
  if (run && chosen(run)) return say("Accepted {name}", { name: nameOf(run.accepted, run, true) });
  if (run?.running && asked(run)) return say("taking…");
  if (!run?.acceptable) return say("Accept");
  return run.newest ? say("Accept {name}", { name: nameOf(run.newest, run, true) }) : say("Accept the first");
}

/** How far the run is, 0 to 1. */
export function fractionOf(run) {
  if (run?.done?.status === "success") return 1;
  return run?.step ? Math.min(1, run.step.depth / Math.max(1, run.step.of)) : 0;
}
