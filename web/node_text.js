/**
 * The card of a run on the node that makes it: what is gained, how and why, and advice. It stays until the next run. The
 * server sends it as a `chords_text` event and keeps it (docs/headless.md has the protocol).
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement, getJson, graph, nodeAt } from "./host.js";
import { t } from "./stream/translations.js";

// The nodes that have a card before their first run, so that their size stays. Others, such as SamplerCustomAdvanced with
// a sampler of ours, get one with their first text.
const SAMPLER = "ChordsSampler";
const NODES = ["ChordsKSampler", "ChordsKSamplerAdvanced", "ChordsBenchmark", "SDOLatentOptimizer", "SDOTrainLoRA"];
const TEXT_HEIGHT = 46; // a title and two smaller lines, as in chords.css
const MARGIN = 6;

// The size of a new node, in which its picture can be read.
const SIZES = { ChordsReport: [560, 480], ChordsBenchmark: [640, 760] };

const cards = new WeakMap(); // node -> its card

app.registerExtension({
  name: "CHORDS.NodeText",

  setup() {
    api.addEventListener("chords_text", ({ detail }) => show(detail));
    for (const end of ["execution_success", "execution_interrupted", "execution_error"])
      api.addEventListener(end, () => (ended = true));
    api.addEventListener("status", () => {
      if (ended) loadTexts(); // now its record is there: it says which nodes did not run again
      ended = false;
    });
    api.addEventListener("reconnected", loadTexts);
  },

  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) addCard(node);
    const size = SIZES[node.comfyClass];
    if (size) node.setSize(size.map((length, i) => Math.max(length, node.size[i])));
  },

  /** All nodes are new: a workflow was opened, or a change was undone. */
  afterConfigureGraph() {
    loadTexts();
  },
});

let ended = false; // whether a prompt has, since the last status

/** The texts of the workflow on the screen, as the server has them. */
async function loadTexts() {
  const id = graph()?.id;
  const answer = id ? await getJson(`/chords/texts/${encodeURIComponent(id)}`) : null;
  for (const text of answer?.texts ?? []) show(text);
}

/** Show a text, unless another workflow is on the screen: workflows have the same node ids. */
function show({ workflow_id: workflow, node_id: id, class_type: type, number, card }) {
  if (!workflow || workflow !== graph()?.id) return;
  const node = nodeAt(id);
  if (node?.comfyClass !== type || !hasTexts(type)) return;
  (cards.get(node) ?? addCard(node)).show(card, number);
}

/**
 * Whether nodes of a class have texts in the workflow on the screen. Two workflows may have the same id: templates of
 * ComfyUI do, and one in which the samplers of the host were replaced by ours and its original.
 */
function hasTexts(type) {
  const graphs = [graph(), ...(graph().subgraphs?.values() ?? [])];
  return NODES.includes(type) || graphs.some(({ nodes }) => nodes.some((node) => node.comfyClass === SAMPLER));
}

function addCard(node) {
  const card = new Card();
  cards.set(node, card);
  const height = () => TEXT_HEIGHT + 2 * MARGIN;
  addElement(node, "chords_text", card.element, { margin: MARGIN, getMinHeight: height, getMaxHeight: height });
  return card;
}

/** A text of the server in the frontend's language: a phrase is a template and its values, other text is a string. */
function words(text) {
  if (typeof text === "string") return t(text);
  const [template, values] = text;
  return t(template, Object.fromEntries(Object.entries(values).map(([name, value]) => [name, valueText(value)])));
}

/** Texts one after the other. Where one ends with a period, nothing else parts them. */
function sentences(texts) {
  const between = t("; ");
  return texts.map(words).join(between).replaceAll(`.${between}`, ". ").replaceAll(`。${between}`, "。");
}

const valueText = (value) => (Array.isArray(value) ? words(value) : value);

class Card {
  #number = 0;

  constructor() {
    this.title = document.createElement("strong");
    this.detail = document.createElement("span");
    this.advice = document.createElement("em");
    this.detail.textContent = t("no run yet");
    this.element = document.createElement("div");
    this.element.className = "chords-text";
    this.element.setAttribute("role", "status");
    this.element.append(this.title, this.detail, this.advice);
  }

  /** Show what the server tells of a run, unless the card has something newer. */
  show({ title, detail, advice }, number) {
    if (number < this.#number) return;
    this.#number = number;
    this.title.textContent = title.map(words).join(t(", "));
    this.detail.textContent = sentences(detail);
    this.advice.textContent = advice.length ? t("Tip: {advice}", { advice: sentences(advice) }) : "";
    const lines = [this.title, this.detail, this.advice].map(({ textContent }) => textContent);
    this.element.title = lines.filter(Boolean).join("\n");
  }
}
