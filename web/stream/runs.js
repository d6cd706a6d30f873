/** The state of the runs, made from the event stream (docs/headless.md). It uses neither the page nor the server. */

import { t } from "./translations.js";

const RUNS_KEPT = 64;

let runCount = 0;

/** One run of one sampler node. */
export class Run {
  constructor(promptId, nodeId, order = ++runCount) {
    this.promptId = promptId;
    this.nodeId = nodeId;
    this.order = order; // a node shows the run with the highest order
    this.viewers = null; // execution ids of the preview nodes that show it; null: not known yet
    this.workflowId = null;
    this.began = performance.now();
    this.opening = null; // of the workflow to which it belongs; see `Tabs`
    this.isEarlier = false; // whether a newer run of the workflow has not reached the nodes that show this one
    this.plan = null;
    this.step = null;
    this.hits = []; // sorted by index; `image`, `images`: its previews; `final`: the decoded pictures, by viewer
    this.lostLanes = []; // events of lanes that are lost or slow
    this.request = null; // the state of an Accept of this page: {index, pending}, {index} or {error}
    this.accepted = null;
    this.done = null;
  }

  get running() {
    return this.done === null;
  }

  /** Whether the user can end it early. */
  get acceptable() {
    const hasResults = this.plan !== null && this.plan.method !== "stock";
    return this.running && hasResults && this.accepted === null && !isRequested(this);
  }

  get newest() {
    return this.hits.at(-1) ?? null;
  }

  /** The hit to show, unless the user selects another one: the newest, or the one that ended the run. */
  get shown() {
    return (this.accepted && this.hit(this.accepted.index)) ?? this.newest;
  }

  hit(index) {
    return this.hits.find((hit) => hit.index === index) ?? null;
  }

  /** Take one event. An event may come twice: live, and from the server's record. */
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
        this.#merge({ index: event.index, image: event.image, images: event.images });
        break;
      case "lane":
        this.lostLanes = this.lostLanes.filter((lane) => lane.lane !== event.lane);
        if (event.state !== "back") this.lostLanes.push(event);
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

  /** All runs in the order of their start. */
  get all() {
    return [...this.#runs.values()];
  }

  of(promptId) {
    return this.all.filter((run) => run.promptId === promptId);
  }

  /** Take a live event. A plan begins a new run, also for a node that already ran in the same prompt. */
  receive(event) {
    const run = event.kind === "plan" ? this.#begin(event) : this.find(event);
    run.apply(event);
    return run;
  }

  /** Take the server's record of a prompt. Its runs may already have received later live events. */
  replay(events) {
    const changed = new Set();
    for (const event of events) {
      const run = this.find(event);
      run.apply(event);
      changed.add(run);
    }
    return changed;
  }

  /** The run of an event; a new one if it is not known yet. */
  find(event) {
    return this.#runs.get(keyOf(event)) ?? this.#begin(event);
  }

  #begin(event) {
    const key = keyOf(event);
    const run = new Run(event.prompt_id, event.node_id);
    this.#runs.delete(key); // so that the new run becomes the last one
    this.#runs.set(key, run);
    for (const oldest of this.#runs.keys()) {
      if (this.#runs.size <= RUNS_KEPT) break;
      this.#runs.delete(oldest);
    }
    return run;
  }
}

/** Whether the accepted result was one of several, or the user accepted it. */
const isChosen = (run) => run.accepted !== null && (hasSeveral(run) || run.accepted.by === "request");
/** Whether a run has several results: one a core, or one a round where the measured error decides the calls. */
const hasSeveral = (run) => run.plan?.cores > 1 || Number.isFinite(run.plan?.tolerance);
const keyOf = (event) => JSON.stringify([event.prompt_id, event.node_id]);
const isRequested = (run) => run.request !== null && run.request.error === undefined;

// ------------------------------------------------------------------------------------------------ texts

/** "draft", "result 2 of 4" ("result 2" with a window), or "result" if there is only one. */
export function nameOf(hit, run, isBrief = false) {
  if (hit.index === 0) return t("draft");
  if (!hasSeveral(run)) return t("result");
  const count = run.plan?.method === "chords" ? run.plan.cores : null; // with other methods it is not known before
  const { index } = hit;
  return count && !isBrief ? t("result {index} of {count}", { index, count }) : t("result {index}", { index });
}

/** The facts of a hit: name, core, model calls, seconds, change. */
export function describeHit(hit, run) {
  const parts = [nameOf(hit, run)];
  if (hit.core > 0 && run.plan?.cores > 1) parts.push(t("core {core}", hit));
  if (hit.depth !== undefined) parts.push(callsText(hit.depth));
  if (Number.isFinite(hit.seconds)) parts.push(secondsText(hit.seconds));
  if (Number.isFinite(hit.change) && hit.change < 1) parts.push(changeText(hit.change)); // else: from a mere draft
  return parts;
}

/** The state of a run in one line. */
export function describeRun(run) {
  if (run === null) return t("Results appear here while the sampler works.");
  const parts = [stateText(run)];
  if (run.newest) parts.push(...reasonOf(run)); // before the first result, it is shown in the place of the picture
  if (run.request?.error) parts.push(t("not accepted: {error}", run.request));
  for (const { state, device, error } of run.lostLanes) parts.push(`${t(state)} ${device ?? t("a device")}: ${error}`);
  return parts.join(" · ");
}

/** Why the run makes every call, one after the other: one text, or none if it does not. */
export const reasonOf = (run) =>
  run.plan && !hasSeveral(run) && !["chords", "secant"].includes(run.plan.method) ? [run.plan.message] : [];

function stateText(run) {
  if (run.done) return endText(run);
  if (isChosen(run)) return `${acceptedText(run)} · ${t("finishing")}`;
  if (isRequested(run)) return t("accepting {name}…", { name: requestedName(run) });
  return run.step ? t("{depth} of {of} calls", run.step) : t("sampling…");
}

function endText(run) {
  const { status, seconds, depth, evaluations, estimate, error } = run.done;
  const costs = [];
  if (depth) {
    const calls = callsText(depth);
    costs.push(evaluations > depth ? t("{calls} in a row, {evaluations} in all", { calls, evaluations }) : calls);
  }
  if (seconds) costs.push(secondsText(seconds));
  if (estimate > 0) costs.push(distanceText(estimate));
  const outcomes = {
    success: isChosen(run) ? acceptedText(run) : t("done"),
    interrupted: t("cancelled"),
    error: error ? t("failed: {error}", { error }) : t("failed"),
  };
  return [outcomes[status] ?? status, ...costs].join(" · ");
}

function acceptedText(run) {
  const name = nameOf(run.accepted, run, true);
  return run.accepted.by === "request" ? t("accepted {name} on request", { name }) : t("accepted {name}", { name });
}

const callsText = (count) => (count === 1 ? t("1 call") : t("{count} calls", { count }));
const secondsText = (seconds) => t("{time} s", { time: seconds.toFixed(seconds < 1 ? 2 : seconds < 10 ? 1 : 0) });

/** About how far the picture is from KSampler's. The estimate is only good for one digit. */
function distanceText(estimate) {
  const percent = 100 * estimate;
  if (percent < 0.1) return t("less than 0.1 % from KSampler's");
  return t("about {percent} % from KSampler's", { percent: Number(percent.toPrecision(1)) });
}

function changeText(change) {
  const percent = 100 * change;
  if (percent === 0) return t("unchanged");
  if (percent < 0.01) return t("changed < 0.01 %");
  return t("changed {percent} %", { percent: percent < 10 ? Number(percent.toPrecision(2)) : Math.round(percent) });
}

/** Whether this hit was accepted. */
export const isAccepted = (hit, run) => isChosen(run) && run.accepted.index === hit.index;

/** The pictures of a hit, as a preview node shows them: one, those of a batch, or the frames of a video. */
export const picturesOf = (hit, viewer) => hit?.final?.[viewer] ?? hit?.images ?? (hit?.image ? [hit.image] : []);

/** The name of the file that a picture of a hit is saved to; `page`: which picture of the hit, from 0, of `pages`. */
export function fileOf(hit, run, image, page, pages) {
  const id = run.promptId ? `_${run.promptId.slice(0, 8)}` : "";
  const result = hit.index === 0 ? "draft" : `result_${hit.index}`;
  const suffix = image.filename.split(".").at(-1);
  return `chords${id}_${result}${pages > 1 ? `_picture_${page + 1}` : ""}.${suffix}`;
}

/** The label of the Accept button: what it takes, the hit that is shown. */
export function acceptLabel(run, hit = run?.shown) {
  if (run && isChosen(run)) return t("Accepted {name}", { name: nameOf(run.accepted, run, true) });
  if (run?.running && isRequested(run)) return t("accepting…");
  if (!run?.acceptable) return t("Accept");
  return hit ? t("Accept {name}", { name: nameOf(hit, run, true) }) : t("Accept the first");
}

/** The tooltip of the Accept button: what it does, or why it can do nothing. */
export function acceptTitle(run, hit = run?.shown) {
  if (run?.acceptable) {
    return hit ? t("End the run now with {name}", { name: nameOf(hit, run, true) }) : t("End the run with its first result");
  }
  if (run?.plan?.method === "stock" && run.running) return t("This run has one result, at its end");
  if (!hit || !run.accepted || run.accepted.index === hit.index) return "";
  const name = nameOf(hit, run, true);
  if (hit.index > run.accepted.index) return t("The run has ended: {name} can no longer be accepted", { name });
  return t("The run has ended: {name} can no longer be accepted, but the outputs of this node have it", { name });
}

function requestedName(run) {
  const hit = run.hit(run.request.index ?? -1);
  return hit ? nameOf(hit, run, true) : t("the first result");
}

/** The progress of a run, 0 to 1. */
export function progressFraction(run) {
  if (run?.done?.status === "success") return 1;
  return run?.step ? Math.min(1, run.step.depth / Math.max(1, run.step.of)) : 0;
}
