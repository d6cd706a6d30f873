/**
 * The live view of CHORDS runs: a panel on every CHORDS Stream Preview node, fed by the server's `chords` events
 * (docs/headless.md has the protocol).
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Panel } from "./stream/panel.js";
import { Run, Runs } from "./stream/runs.js";
import { learn, say } from "./stream/words.js";

const NODE = "ChordsStreamPreview";
const NODE_SIZE = [340, 480];
const PANEL_MIN_HEIGHT = 280;
const PROMPTS_KEPT = 64;

const runs = new Runs();
const prompts = new Map(); // prompt id -> promise of {nodes, workflowId} or null
const panels = new WeakMap(); // node -> its panel

app.registerExtension({
  name: "CHORDS.StreamPreview",

  async setup() {
    addStylesheet();
    learn(await getJson("/i18n"), app.ui.settings.getSettingValue("Comfy.Locale"));
    api.addEventListener("chords", ({ detail }) => follow(runs.live(detail)));
    api.addEventListener("executed", ({ detail }) => takeExecuted(detail));
    // A run reports its own end. Should that be lost, the host's word ends it.
    api.addEventListener("execution_success", ({ detail }) => close(detail.prompt_id, "success"));
    api.addEventListener("execution_interrupted", ({ detail }) => close(detail.prompt_id, "interrupted"));
    api.addEventListener("execution_error", ({ detail }) =>
      close(detail.prompt_id, "error", detail.exception_message?.trim()),
    );
    api.addEventListener("reconnected", catchUp);
    catchUp();
  },

  nodeCreated(node) {
    if (node.comfyClass === NODE) addPanel(node);
  },

  /** Opening a workflow, undo and the like make all nodes anew. */
  afterConfigureGraph() {
    for (const run of runs.all) show(run);
  },

  /** Outputs that come without a prompt: one opened from the history, a tab opened again. */
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const panel = panels.get(nodeAt(id));
      if (!panel || panel.run || !output.chords) continue;
      const run = new Run(null, null, 0);
      takeOutput(run, id, output);
      panel.show(run, id);
    }
  },
});

// ------------------------------------------------------------------------------------------------ runs and nodes

/** Show a run on the nodes it feeds, once it is known which these are. */
async function follow(run) {
  const prompt = await promptOf(run.promptId);
  if (!prompt) return;
  run.workflowId = prompt.workflowId;
  run.viewers ??= Object.keys(prompt.nodes).filter((id) => feeds(run.nodeId, prompt.nodes[id]));
  show(run);
}

function show(run) {
  if (run.viewers === null || isOfAnotherWorkflow(run)) return;
  for (const id of run.viewers) {
    const panel = panels.get(nodeAt(id));
    const isOlder = panel?.run && panel.run.order > run.order;
    if (panel && !isOlder) panel.show(run, id);
  }
}

/**
 * The output of a preview node: the finished pictures take the place of the previews. Where the host had it in its
 * cache, it is all there is of the run.
 */
async function takeExecuted({ prompt_id: promptId, node, output }) {
  if (!output?.chords) return;
  const id = String(node);
  const viewer = (await promptOf(promptId))?.nodes[id];
  if (viewer?.class_type !== NODE) return;
  const run = runs.find({ prompt_id: promptId, node_id: String(viewer.inputs.run[0]) });
  takeOutput(run, id, output);
  follow(run);
}

function takeOutput(run, viewer, { chords: [record], images = [] }) {
  if (run.plan === null) run.apply({ ...record, kind: "plan" });
  const first = record.hits[0]?.core === 0 ? 0 : 1;
  const each = images.length / record.hits.length; // pictures of a hit: those of a batch, the frames of a video
  record.hits.forEach((hit, i) => {
    run.apply({ ...hit, kind: "hit", index: first + i });
    if (Number.isInteger(each)) (run.hit(first + i).final ??= {})[viewer] = images[i * each];
  });
  if (run.accepted === null && run.newest) run.apply({ ...run.newest, kind: "accepted" });
  if (run.running) run.apply({ ...record, kind: "done", status: "success" });
}

/** Node ids repeat from workflow to workflow, and the one that is running need not be the one on the screen. */
function isOfAnotherWorkflow(run) {
  const open = graph()?.id;
  return Boolean(run.workflowId && open && run.workflowId !== open);
}

const graph = () => app.rootGraph ?? app.graph;

const feeds = (sampler, node) => node.class_type === NODE && String(node.inputs?.run?.[0]) === String(sampler);

/** The node of an execution id, "12", "5:12" for one in a subgraph, or of "uuid:12", the subgraph's own id. */
function nodeAt(id) {
  const path = String(id).split(":");
  const last = path.pop();
  let inner = graph();
  for (const step of path) inner = inner?.subgraphs?.get(step) ?? inner?.getNodeById(step)?.subgraph;
  return inner?.getNodeById(last) ?? undefined;
}

/**
 * The prompt as it was queued, with reroutes, bypassed nodes and subgraphs resolved: what the graph on the screen has
 * become since does not matter.
 */
function promptOf(promptId) {
  if (!prompts.has(promptId)) {
    const asked = fetchPrompt(promptId);
    prompts.set(promptId, asked);
    asked.then((prompt) => prompt ?? prompts.delete(promptId)); // the next event asks again
    if (prompts.size > PROMPTS_KEPT) prompts.delete(prompts.keys().next().value);
  }
  return prompts.get(promptId);
}

/** A prompt in the queue or the history, null if the server does not tell. */
async function fetchPrompt(promptId) {
  const queue = await getJson("/queue");
  const queued = [...(queue?.queue_running ?? []), ...(queue?.queue_pending ?? [])];
  const item = queued.find((entry) => entry[1] === promptId) ?? (await pastPrompt(promptId));
  return item ? { nodes: item[2], workflowId: item[3]?.extra_pnginfo?.workflow?.id ?? null } : null;
}

const pastPrompt = async (promptId) => (await getJson(`/history/${promptId}`))?.[promptId]?.prompt;

/** Learn what was missed: the page was loaded, or the connection was lost, while something ran. */
async function catchUp() {
  const queue = await getJson("/queue");
  if (!queue) return;
  const ours = queue.queue_running.filter((item) => isToldToUs(item) && hasViewer(item));
  const running = ours.map(([, promptId]) => promptId);
  const unfinished = runs.all.filter((run) => run.running).map((run) => run.promptId);
  for (const promptId of new Set([...running, ...unfinished])) {
    const record = await getJson(`/chords/runs/${promptId}`);
    for (const run of runs.replay(record?.events ?? [])) follow(run);
    if (!record && unfinished.includes(promptId)) close(promptId, "error", say("the server no longer knows this run"));
  }
}

/** Whether the events of a prompt in the queue come to this page: it is of this client or of none. */
const isToldToUs = ([, , , { client_id: sender } = {}]) => !sender || sender === (api.clientId ?? api.initialClientId);

const hasViewer = ([, , nodes]) => Object.values(nodes).some((node) => node.class_type === NODE);

function close(promptId, status, error = null) {
  for (const run of runs.of(promptId)) {
    if (!run.running) continue;
    run.apply({ kind: "done", status, error });
    show(run);
  }
}

async function accept(run) {
  run.request = { pending: true };
  show(run);
  try {
    const body = JSON.stringify({ prompt_id: run.promptId, node_id: run.nodeId });
    const headers = { "Content-Type": "application/json" };
    const answer = await api.fetchApi("/chords/accept", { method: "POST", headers, body });
    run.request = answer.ok ? await answer.json() : { error: await reasonOf(answer) };
  } catch (error) {
    run.request = { error: error.message };
  }
  show(run);
}

async function reasonOf(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `HTTP ${answer.status}`;
  }
}

/** JSON of the server; null where it has none. */
async function getJson(route) {
  try {
    const answer = await api.fetchApi(route);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

// ------------------------------------------------------------------------------------------------ the node

function addPanel(node) {
  const drawn = (image) => {
    node.imgs = [image]; // for the node's own menu: open, save, copy the picture
    node.imageIndex = 0;
  };
  const panel = new Panel({ urlOf, accept, drawn });
  panels.set(node, panel);
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => PANEL_MIN_HEIGHT };
  const widget = node.addDOMWidget("chords_stream", "chords_stream", panel.element, options);
  widget.serialize = false; // the one in the options keeps it out of the prompt, this one out of the file
  forwardToCanvas(panel.element);
  showOnlyThePanel(node);
  node.setSize(NODE_SIZE.map((length, i) => Math.max(length, node.size[i])));
}

/** The host would draw its previews and the outputs once more below the panel. */
function showOnlyThePanel(node) {
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
}

const urlOf = ({ filename, subfolder = "", type = "temp" }) =>
  api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

/** On the classic canvas the panel lies above the canvas: zooming and panning shall work on it, too. */
function forwardToCanvas(element) {
  const isVue = () => globalThis.LiteGraph?.vueNodesMode;
  const forward = (type, isMeant, method) =>
    element.addEventListener(type, (event) => {
      if (isVue() || !isMeant(event)) return;
      event.preventDefault();
      app.canvas[method](event);
    });
  forward("wheel", (event) => !scrollsStrip(event), "processMouseWheel");
  forward("pointerdown", (event) => event.button === 1, "processMouseDown");
  forward("pointermove", (event) => (event.buttons & 4) !== 0, "processMouseMove");
  forward("pointerup", (event) => event.button === 1, "processMouseUp");
}

function scrollsStrip(event) {
  const strip = event.target.closest?.(".chords-strip");
  if (!strip || event.ctrlKey || strip.scrollWidth <= strip.clientWidth) return false;
  event.preventDefault();
  strip.scrollLeft += event.deltaX || event.deltaY;
  return true;
}

function addStylesheet() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("chords.css", import.meta.url).href;
  document.head.append(link);
}
