/** The widget on a CHORDS Stream Preview node: picture, caption, progress, a strip of thumbnails, Accept. */

import { acceptLabel, describeHit, describeRun, isAccepted, nameOf, progressFraction, reasonOf } from "./runs.js";
import { t } from "./translations.js";

export class Panel {
  #selected = null; // the index of the hit that is shown large; null: the newest
  #shownUrl = null; // the address of the large picture, or of the one that is loading
  #brokenUrl = null; // the last address without a picture
  #thumbs = new Map();

  /**
   * @param {object} calls
   * @param {(image: object) => string} calls.urlOf the address of a picture on the server
   * @param {(run: object) => void} calls.accept called when the user clicks Accept
   * @param {(image: HTMLImageElement) => void} calls.onPicture called with each picture that is shown large
   */
  constructor({ urlOf, accept, onPicture }) {
    this.urlOf = urlOf;
    this.onPicture = onPicture;
    this.run = null;
    this.viewer = null;
    this.picture = make("div", "picture");
    this.hint = make("div", "hint");
    this.picture.append(this.hint);
    this.caption = make("div", "caption", { role: "status" });
    this.bar = make("div", "fill");
    this.progress = make("div", "progress", { role: "progressbar", "aria-label": t("Progress") });
    this.progress.setAttribute("aria-valuemin", "0");
    this.progress.setAttribute("aria-valuemax", "100");
    this.progress.append(this.bar);
    this.strip = make("div", "strip", { role: "group", "aria-label": t("Results so far") });
    this.status = make("div", "status");
    this.button = make("button", "accept", { type: "button" });
    this.button.addEventListener("click", () => accept(this.run));
    const foot = make("div", "foot");
    foot.append(this.status, this.button);
    this.element = make("div", "stream");
    this.element.append(this.picture, this.caption, this.progress, this.strip, foot);
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.render();
  }

  /** Show a run on the node with the execution id `viewer`. Another run than before starts with an empty strip. */
  show(run, viewer) {
    this.viewer = viewer;
    if (run !== this.run) {
      this.run = run;
      this.#selected = null;
      this.#thumbs.clear();
      this.strip.replaceChildren();
      this.#clearPicture();
    }
    this.render();
  }

  render() {
    const { run } = this;
    const hit = this.#selectedHit();
    this.element.dataset.state = stateOf(run);
    this.#renderThumbs(hit);
    this.#renderCaption(hit);
    this.#renderPicture(hit);
    const percent = Math.round(100 * progressFraction(run));
    this.bar.style.width = `${percent}%`;
    this.progress.setAttribute("aria-valuenow", percent);
    setText(this.status, describeRun(run));
    this.status.title = run?.plan?.message ?? "";
    setText(this.button, acceptLabel(run));
    this.button.disabled = !run?.acceptable;
    this.button.title = this.button.disabled ? "" : t("End the run now with the best result so far");
  }

  #selectedHit() {
    if (this.run === null) return null;
    return (this.#selected === null ? null : this.run.hit(this.#selected)) ?? this.run.newest;
  }

  #addressOf(hit) {
    const image = hit?.final?.[this.viewer] ?? hit?.image;
    return image ? this.urlOf(image) : null;
  }

  // ---------------------------------------------------------------------------------------------- picture

  #renderPicture(hit) {
    const url = this.#addressOf(hit);
    const isBroken = url !== null && url === this.#brokenUrl;
    this.picture.classList.toggle("chords-waiting", !url || isBroken);
    const missing = isBroken ? t("the picture is no longer on the server") : waitingText(this.run, hit);
    setText(this.hint, url && !isBroken ? "" : missing);
    if (url && url !== this.#shownUrl) this.#load(url);
  }

  #clearPicture() {
    this.#shownUrl = null;
    this.picture.querySelector("img")?.remove();
  }

  /** Replace the picture when the next one is loaded, so that it does not flicker. */
  async #load(url) {
    this.#shownUrl = url;
    const image = new Image();
    image.src = url;
    image.alt = this.caption.textContent;
    const loaded = await image.decode().then(
      () => true,
      () => false,
    );
    if (this.#shownUrl !== url) return; // a newer picture is loading
    this.picture.querySelector("img")?.remove();
    if (loaded) {
      this.picture.prepend(image);
      this.onPicture(image);
    } else {
      this.#brokenUrl = url;
      this.render();
    }
  }

  #renderCaption(hit) {
    const [name, ...facts] = hit ? describeHit(hit, this.run) : [];
    const tail = facts.map((fact) => `\u00a0· ${fact}`).join(""); // no-break spaces: no line begins with a dot
    const text = `${name ?? ""}${tail}`;
    if (this.caption.textContent === text) return; // otherwise a screen reader would read it again
    const title = make("strong");
    title.textContent = name ?? "";
    this.caption.replaceChildren(title, tail);
  }

  // ---------------------------------------------------------------------------------------------- strip

  #renderThumbs(selectedHit) {
    for (const hit of this.run?.hits ?? []) {
      const isNew = !this.#thumbs.has(hit.index);
      const thumb = isNew ? this.#addThumb(hit) : this.#thumbs.get(hit.index);
      this.#renderThumb(thumb, hit, hit === selectedHit);
      if (isNew) this.strip.scrollLeft = this.strip.scrollWidth;
    }
  }

  #addThumb(hit) {
    const button = make("button", "thumb", { type: "button" });
    const label = make("span");
    button.append(make("div", "frame"), label);
    button.addEventListener("click", () => this.#select(hit.index));
    const after = [...this.#thumbs].filter(([index]) => index > hit.index).sort(([a], [b]) => a - b)[0];
    this.strip.insertBefore(button, after?.[1] ?? null);
    this.#thumbs.set(hit.index, button);
    return button;
  }

  #renderThumb(thumb, hit, isSelected) {
    const name = nameOf(hit, this.run, true);
    const accepted = isAccepted(hit, this.run);
    setText(thumb.querySelector("span"), accepted ? `✓ ${name}` : name);
    thumb.classList.toggle("chords-taken", accepted);
    thumb.setAttribute("aria-pressed", isSelected);
    thumb.title = describeHit(hit, this.run).join(" · ");
    const what = { what: thumb.title };
    thumb.setAttribute("aria-label", accepted ? t("Show {what}, accepted", what) : t("Show {what}", what));
    this.#renderThumbImage(thumb.querySelector(".chords-frame"), this.#addressOf(hit), name);
  }

  #renderThumbImage(frame, url, name) {
    if (!url || frame.dataset.url === url) return;
    frame.dataset.url = url;
    const image = new Image();
    image.alt = name;
    image.draggable = false;
    image.onload = () => frame.dataset.url === url && frame.replaceChildren(image);
    image.src = url;
  }

  /** Show a hit large. The newest hit: follow the run again. Accept does not depend on the selection. */
  #select(index) {
    this.#selected = index === this.run?.newest?.index ? null : index;
    this.render();
  }

  #onKey(event) {
    if (!(event.target instanceof HTMLButtonElement)) return;
    const isOurs = ["Enter", " ", "ArrowLeft", "ArrowRight"].includes(event.key);
    if (isOurs) event.stopPropagation(); // the canvas must not get these keys
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const thumbs = [...this.strip.children];
    const next = thumbs[thumbs.indexOf(event.target) + step];
    if (step && next && this.strip.contains(event.target)) {
      event.preventDefault();
      next.focus();
      next.click();
    }
  }
}

function stateOf(run) {
  if (run === null) return "idle";
  if (run.done) return run.done.status;
  return run.request?.pending ? "taking" : "running";
}

function waitingText(run, hit) {
  if (run === null) return t("no run yet");
  if (hit) return run.running ? t("its picture is not ready yet") : t("it has no picture");
  if (!run.running) return t("no results");
  return [t("waiting for the first result"), ...reasonOf(run)].join("\n");
}

function make(tag, name, attributes = {}) {
  const element = document.createElement(tag);
  if (name) element.className = `chords-${name}`;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Set a text only if it changes: each change makes the layout and screen readers work. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
