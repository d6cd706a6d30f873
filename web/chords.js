/**
 * The live view of CHORDS runs: a panel on every CHORDS Stream Preview node. It shows the server's `chords` events
 * (docs/headless.md has the protocol).
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement, getJson, graph, nodeAt } from "./host.js";
import { Panel } from "./stream/panel.js";
import { Run, Runs } from "./stream/runs.js";
import { Tabs } from "./stream/tabs.js";
import { setTranslations, t } from "./stream/translations.js";

const NODE = "ChordsStreamPreview";
const NODE_SIZE = [400, 600];
const PANEL_MIN_HEIGHT = 320;
const PROMPTS_KEPT = 64;

const runs = new Runs();
const workflows = () => app.extensionManager?.workflow;
const tabs = new Tabs(
  () => workflows()?.activeWorkflow ?? null,
  () => workflows()?.openWorkflows ?? [],
);
const prompts = new Map(); // prompt id -> promise of {nodes, workflowId} or null
const panels = new WeakMap(); // node -> its panel

app.registerExtension({
  name: "CHORDS.StreamPreview",

  async setup() {
    addStylesheet();
    setTranslations(await getJson("/i18n"), app.ui.settings.getSettingValue("Comfy.Locale"));
    api.addEventListener("chords", ({ detail }) => follow(runs.receive(detail)));
    api.addEventListener("execution_start", ({ detail }) => onStart(detail.prompt_id));
    api.addEventListener("executed", ({ detail }) => onExecuted(detail));
    // A run reports its own end. If that event is lost, the host's event ends it.
    api.addEventListener("execution_success", ({ detail }) => closeRuns(detail.prompt_id, "success"));
    api.addEventListener("execution_interrupted", ({ detail }) => closeRuns(detail.prompt_id, "interrupted"));
    api.addEventListener("execution_error", ({ detail }) =>
      closeRuns(detail.prompt_id, "error", detail.exception_message?.trim()),
    );
    api.addEventListener("reconnected", loadMissedEvents);
    loadMissedEvents();
  },

  nodeCreated(node) {
    if (node.comfyClass === NODE) addPanel(node);
  },

  /** The frontend clears the page before it opens a workflow, but not before it undoes a change. */
  beforeConfigureGraph() {
    const isCleared = graph().nodes.length === 0 && Object.keys(app.nodeOutputs ?? {}).length === 0;
    if (isCleared) tabs.begin();
  },

  /** All nodes are new: a workflow was opened, or a change was undone. */
  afterConfigureGraph() {
    tabs.settle(() => runs.all.forEach(show)); // not awaited: the frontend changes the tab after this
  },

  /** Outputs without a prompt: one from the history, or those of a tab that is on the screen again. */
  onNodeOutputsUpdated(outputs) {
    if (tabs.isSame && isOfTheTab(outputs)) return; // a workflow is opened again in its tab: these are of before
    for (const [id, output] of Object.entries(outputs)) {
      const panel = panels.get(nodeAt(id));
      if (!panel || panel.run || !output.chords) continue;
      const run = new Run(null, null, 0);
      run.isEarlier = true;
      applyOutput(run, id, output);
      panel.show(run, id);
    }
  },
});

// ------------------------------------------------------------------------------------------------ runs and nodes

/** Show a run on its preview nodes, when the prompt that names them is loaded. */
async function follow(run) {
  const prompt = await promptOf(run.promptId);
  if (!prompt) return;
  run.workflowId = prompt.workflowId;
  run.viewers ??= Object.keys(prompt.nodes).filter((id) => isViewerOf(run.nodeId, prompt.nodes[id]));
  show(run);
}

/** A prompt begins. Until it reaches them, the preview nodes of its workflow show an earlier run. */
async function onStart(promptId) {
  if (runs.all.length === 0) return; // a long queue is slow to load
  const workflowId = (await promptOf(promptId))?.workflowId;
  if (!workflowId) return;
  for (const run of runs.all) {
    if (run.promptId === promptId || run.workflowId !== workflowId) continue;
    run.isEarlier = true; // also where another workflow is on the screen now
    show(run);
  }
}

function show(run) {
  if (run.viewers === null || belongsToAnotherWorkflow(run) || !tabs.has(run)) return;
  for (const id of run.viewers) {
    const panel = panels.get(nodeAt(id));
    const isOlder = panel?.run && panel.run.order > run.order;
    if (panel && !isOlder) panel.show(run, id);
  }
}

/**
 * The output of a preview node: the decoded pictures replace the previews. If the host had the output in its cache,
 * there are no other events of the run.
 */
async function onExecuted({ prompt_id: promptId, node, output }) {
  if (!output?.chords) return;
  const id = String(node);
  const viewer = (await promptOf(promptId))?.nodes[id];
  if (viewer?.class_type !== NODE) return;
  const run = runs.find({ prompt_id: promptId, node_id: String(viewer.inputs.run[0]) });
  applyOutput(run, id, output);
  follow(run);
}

function applyOutput(run, viewer, { chords: [record], images = [] }) {
  if (run.plan === null) run.apply({ ...record, kind: "plan" });
  const first = record.hits[0]?.core === 0 ? 0 : 1;
  const each = images.length / record.hits.length; // the pictures of each hit: a batch, or the frames of a video
  record.hits.forEach((hit, i) => {
    run.apply({ ...hit, kind: "hit", index: first + i });
    if (Number.isInteger(each)) (run.hit(first + i).final ??= {})[viewer] = images.slice(i * each, (i + 1) * each);
  });
  if (run.accepted === null && run.newest) run.apply({ ...run.newest, kind: "accepted" });
  if (run.running) run.apply({ ...record, kind: "done", status: "success" });
}

/** Workflows have the same node ids, and the one that runs may be another one than the one on the screen. */
function belongsToAnotherWorkflow(run) {
  const open = graph()?.id;
  return Boolean(run.workflowId && open && run.workflowId !== open);
}

const isViewerOf = (sampler, node) => node.class_type === NODE && String(node.inputs?.run?.[0]) === String(sampler);

/**
 * The prompt as it was queued, with reroutes, bypassed nodes and subgraphs resolved. Later changes of the graph on the
 * screen do not matter.
 */
function promptOf(promptId) {
  if (!prompts.has(promptId)) {
    const request = fetchPrompt(promptId);
    prompts.set(promptId, request);
    request.then((prompt) => prompt ?? prompts.delete(promptId)); // the next event tries again
    if (prompts.size > PROMPTS_KEPT) prompts.delete(prompts.keys().next().value);
  }
  return prompts.get(promptId);
}

/** A prompt in the queue or the history; null if the server has neither. */
async function fetchPrompt(promptId) {
  const queue = await getJson("/queue");
  const queued = [...(queue?.queue_running ?? []), ...(queue?.queue_pending ?? [])];
  const item = queued.find((entry) => entry[1] === promptId) ?? (await pastPrompt(promptId));
  return item ? { nodes: item[2], workflowId: item[3]?.extra_pnginfo?.workflow?.id ?? null } : null;
}

const pastPrompt = async (promptId) => (await getJson(`/history/${promptId}`))?.[promptId]?.prompt;

/** Load the events that this page missed: it was opened, or its connection was lost, while a prompt ran. */
async function loadMissedEvents() {
  const queue = await getJson("/queue");
  if (!queue) return;
  const ours = queue.queue_running.filter((item) => isForThisPage(item) && hasViewer(item));
  const running = ours.map(([, promptId]) => promptId);
  const unfinished = runs.all.filter((run) => run.running).map((run) => run.promptId);
  for (const promptId of new Set([...running, ...unfinished])) {
    const record = await getJson(`/chords/runs/${promptId}`);
    for (const run of runs.replay(record?.events ?? [])) follow(run);
    if (record || !unfinished.includes(promptId)) continue;
    closeRuns(promptId, "error", t("the server has no record of this run"));
  }
}

/** Whether this page gets the events of a prompt in the queue: the prompt is of this client, or of none. */
const isForThisPage = ([, , , { client_id: sender } = {}]) =>
  !sender || sender === (api.clientId ?? api.initialClientId);

const hasViewer = ([, , nodes]) => Object.values(nodes).some((node) => node.class_type === NODE);

function closeRuns(promptId, status, error = null) {
  for (const run of runs.of(promptId)) {
    if (!run.running) continue;
    run.apply({ kind: "done", status, error });
    show(run);
  }
}

/** End a run with the hit of this index; null: with the first that comes. */
async function accept(run, index) {
  run.request = { index, pending: true };
  show(run);
  try {
    const body = JSON.stringify({ prompt_id: run.promptId, node_id: run.nodeId, index });
    const headers = { "Content-Type": "application/json" };
    const answer = await api.fetchApi("/chords/accept", { method: "POST", headers, body });
    run.request = answer.ok ? await answer.json() : { error: await errorOf(answer) };
  } catch (error) {
    run.request = { error: error.message };
  }
  show(run);
}

async function errorOf(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `HTTP ${answer.status}`;
  }
}

// ------------------------------------------------------------------------------------------------ the node

function addPanel(node) {
  const onPicture = (image) => {
    node.imgs = [image]; // for the menu of the node: open, save, copy the picture
    node.imageIndex = 0;
  };
  const panel = new Panel({ urlOf, accept, onPicture });
  panels.set(node, panel);
  addElement(node, "chords_stream", panel.element, { getMinHeight: () => PANEL_MIN_HEIGHT });
  showOnlyThePanel(node);
  node.setSize(NODE_SIZE.map((length, i) => Math.max(length, node.size[i])));
}

/** Without this, the host draws its previews and the outputs once more below the panel. */
function showOnlyThePanel(node) {
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
}

/** Whether these outputs are what the frontend has kept for the tab on the screen, not those of a prompt's history. */
function isOfTheTab(outputs) {
  const kept = workflows()?.activeWorkflow?.changeTracker?.nodeOutputs;
  return JSON.stringify(outputs) === JSON.stringify(kept ?? null);
}

const urlOf = ({ filename, subfolder = "", type = "temp" }) =>
  api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

function addStylesheet() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("chords.css", import.meta.url).href;
  document.head.append(link);
}
