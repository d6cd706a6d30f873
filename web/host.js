/** What the extensions of this pack use of the frontend and of the server. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

/** The whole workflow on the screen, not the subgraph that is open. */
export const graph = () => app.rootGraph ?? app.graph;

/** The node of an execution id: "12", "5:12" in a subgraph, or "uuid:12" with the id of the subgraph itself. */
export function nodeAt(id) {
  const path = String(id).split(":");
  const last = path.pop();
  let inner = graph();
  for (const step of path) inner = inner?.subgraphs?.get(step) ?? inner?.getNodeById(step)?.subgraph;
  return inner?.getNodeById(last) ?? undefined;
}

/** The server's JSON at a route; null if there is none. */
export async function getJson(route) {
  try {
    const answer = await api.fetchApi(route);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/**
 * Add an element of ours as a widget. It is part of neither the prompt nor the file, and not an input of the side
 * panel. The node grows if it has no room for it.
 */
export function addElement(node, name, element, options) {
  const ours = { serialize: false, hideInPanel: true, hideOnZoom: false };
  const widget = node.addDOMWidget(name, name, element, { ...ours, ...options });
  widget.serialize = false; // serialize in the options keeps it out of the prompt, and this one out of the file
  forwardToCanvas(element);
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}

/** On the classic canvas, an element covers the canvas. Forward its events, so that zooming and panning work there. */
function forwardToCanvas(element) {
  const isVue = () => globalThis.LiteGraph?.vueNodesMode;
  const forward = (type, isForCanvas, method) =>
    element.addEventListener(type, (event) => {
      if (isVue() || !isForCanvas(event)) return;
      event.preventDefault();
      app.canvas[method](event);
    });
  forward("wheel", (event) => !scrollStrip(event), "processMouseWheel");
  forward("pointerdown", (event) => event.button === 1, "processMouseDown");
  forward("pointermove", (event) => (event.buttons & 4) !== 0, "processMouseMove");
  forward("pointerup", (event) => event.button === 1, "processMouseUp");
}

/** Scroll the strip under the pointer; false if there is nothing to scroll. */
function scrollStrip(event) {
  const strip = event.target.closest?.(".chords-strip");
  if (!strip || event.ctrlKey || strip.scrollWidth <= strip.clientWidth) return false;
  event.preventDefault();
  strip.scrollLeft += event.deltaX || event.deltaY;
  return true;
}
