/** Small parts of the panel and of the enlarged view. */

/** An element with the class `chords-<name>`. */
export function make(tag, name, attributes = {}) {
  const element = document.createElement(tag);
  if (name) element.className = `chords-${name}`;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Set a text only if it changes: each change makes the layout and screen readers work. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Name an element by a text that is its tooltip, too. */
export function setName(element, text) {
  element.title = text;
  element.setAttribute("aria-label", text);
}

const ICONS = {
  enlarge: "M9.5 2H14v4.5M14 2 9 7M6.5 14H2V9.5M2 14l5-5",
  save: "M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
  close: "M3 3l10 10M13 3 3 13",
  before: "M10 3 5 8l5 5",
  next: "M6 3l5 5-5 5",
};

/** One of our own icons, in the colour of the text. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", ICONS[name]);
  drawing.append(line);
  return drawing;
}

/** A button with an icon. */
export function iconButton(name, onClick) {
  const button = make("button", `icon chords-${name}`, { type: "button" });
  button.append(icon(name));
  button.addEventListener("click", onClick);
  return button;
}

/**
 * Save a picture under a name of ours. A plain link does not: the server names the file, too, and browsers prefer that.
 * Returns whether the server still had it.
 */
export async function savePicture({ url, file }) {
  const answer = await fetch(url).catch(() => null);
  if (!answer?.ok) return false;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser reads it after the click
  return true;
}
