/** The widget on a CHORDS Stream Preview node: newest picture, caption, progress, film strip, Accept. */

import { acceptLabel, describeHit, describeRun, fractionOf, isTaken, nameOf, reasonOf } from "./runs.js";
import { say } from "./words.js";

export class Panel {
  #looking = null; // the index of the hit looked at; null follows the newest
  #shownUrl = null; // of the large picture, or of the one that is being loaded
  #brokenUrl = null;
  #thumbs = new Map();

  /**
   * @param {object} calls
   * @param {(image: object) => string} calls.urlOf address of a picture on the server
   * @param {(run: object) => void} calls.accept called by the button
   * @param {(image: HTMLImageElement) => void} calls.drawn called with each picture shown large
   */
  constructor({ urlOf, accept, drawn }) {
    this.urlOf = urlOf;
    this.drawn = drawn;
    this.run = null;
    this.viewer = null;
    this.picture = make("div", "picture");
    this.hint = make("div", "hint");
    this.picture.append(this.hint);
    this.caption = make("div", "caption", { role: "status" });
    this.bar = make("div", "fill");
    this.progress = make("div", "progress", { role: "progressbar", "aria-label": say("Progress") });
    this.progress.setAttribute("aria-valuemin", "0");
    this.progress.setAttribute("aria-valuemax", "100");
    this.progress.append(this.bar);
    this.strip = make("div", "strip", { role: "group", "aria-label": say("Results so far") });
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

  /** Show a run as the node `viewer` gets it; one that is not the one shown so far starts with an empty strip. */
  show(run, viewer) {
    this.viewer = viewer;
    if (run !== this.run) {
      this.run = run;
      this.#looking = null;
      this.#thumbs.clear();
      this.strip.replaceChildren();
      this.#clearPicture();
    }
    this.render();
  }

  render() {
    const { run } = this;
    const hit = this.#hitLookedAt();
    this.element.dataset.state = stateOf(run);
    this.#renderThumbs(hit);
    this.#renderCaption(hit);
    this.#renderPicture(hit);
    const percent = Math.round(100 * fractionOf(run));
    this.bar.style.width = `${percent}%`;
    this.progress.setAttribute("aria-valuenow", percent);
    setText(this.status, describeRun(run));
    this.status.title = run?.plan?.message ?? "";
    setText(this.button, acceptLabel(run));
    this.button.disabled = !run?.acceptable;
    this.button.title = this.button.disabled ? "" : say("End the run now with the best result so far");
  }

  #hitLookedAt() {
    if (this.run === null) return null;
    return (this.#looking === null ? null : this.run.hit(this.#looking)) ?? this.run.newest;
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
    const missing = isBroken ? say("the picture is no longer on the server") : waitingText(this.run, hit);
    setText(this.hint, url && !isBroken ? "" : missing);
    if (url && url !== this.#shownUrl) this.#load(url);
  }

  #clearPicture() {
    this.#shownUrl = null;
    this.picture.querySelector("img")?.remove();
  }

  /** Swap the pictures only when the next one is ready, so that nothing flickers. */
  async #load(url) {
    this.#shownUrl = url;
    const image = new Image();
    image.src = url;
    image.alt = this.caption.textContent;
    const loaded = await image.decode().then(
      () => true,
      () => false,
    );
    if (this.#shownUrl !== url) return; // overtaken by a newer one
    this.picture.querySelector("img")?.remove();
    if (loaded) {
      this.picture.prepend(image);
      this.drawn(image);
    } else {
      this.#brokenUrl = url;
      this.render();
    }
  }

  #renderCaption(hit) {
    const [name, ...facts] = hit ? describeHit(hit, this.run) : [];
    const tail = facts.map((fact) => `\u00a0· ${fact}`).join(""); // no line begins with a dot
    const text = `${name ?? ""}${tail}`;
    if (this.caption.textContent === text) return; // or a screen reader would say it again
    const title = make("strong");
    title.textContent = name ?? "";
    this.caption.replaceChildren(title, tail);
  }

  // ---------------------------------------------------------------------------------------------- strip

  #renderThumbs(lookedAt) {
    for (const hit of this.run?.hits ?? []) {
      const isNew = !this.#thumbs.has(hit.index);
      const thumb = isNew ? this.#addThumb(hit) : this.#thumbs.get(hit.index);
      this.#renderThumb(thumb, hit, hit === lookedAt);
      if (isNew) this.strip.scrollLeft = this.strip.scrollWidth;
    }
  }

  #addThumb(hit) {
    const button = make("button", "thumb", { type: "button" });
    const label = make("span");
    button.append(make("div", "frame"), label);
    button.addEventListener("click", () => this.#look(hit.index));
    const after = [...this.#thumbs].filter(([index]) => index > hit.index).sort(([a], [b]) => a - b)[0];
    this.strip.insertBefore(button, after?.[1] ?? null);
    this.#thumbs.set(hit.index, button);
    return button;
  }

  #renderThumb(thumb, hit, isLookedAt) {
    const name = nameOf(hit, this.run, true);
    const taken = isTaken(hit, this.run);
    setText(thumb.querySelector("span"), taken ? `✓ ${name}` : name);
    thumb.classList.toggle("chords-taken", taken);
    thumb.setAttribute("aria-pressed", isLookedAt);
    thumb.title = describeHit(hit, this.run).join(" · ");
    const what = { what: thumb.title };
    thumb.setAttribute("aria-label", taken ? say("Look at {what}, accepted", what) : say("Look at {what}", what));
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

  /** Look at a hit; at the newest: follow the run again. What Accept takes does not depend on it. */
  #look(index) {
    this.#looking = index === this.run?.newest?.index ? null : index;
    this.render();
  }

  #onKey(event) {
    if (!(event.target instanceof HTMLButtonElement)) return;
    if (["Enter", " ", "ArrowLeft", "ArrowRight"].includes(event.key)) event.stopPropagation(); // not for the canvas
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
  if (run === null) return say("no run yet");
  if (hit) return run.running ? say("its picture is on the way") : say("no picture of it");
  if (!run.running) return say("no results");
  return [say("waiting for the first result"), ...reasonOf(run)].join("\n");
}

function make(tag, name, attributes = {}) {
  const element = document.createElement(tag);
  if (name) element.className = `chords-${name}`;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Set a text only where it changes: each change is a task for the layout and for screen readers. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
