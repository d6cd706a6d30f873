/** The widget on a CHORDS Stream Preview node: picture, caption, progress, a strip of thumbnails, Accept. */

import { iconButton, make, savePicture, setName, setText } from "./elements.js";
import { Enlarged } from "./enlarged.js";
import { Pager } from "./pager.js";
import {
  acceptLabel,
  acceptTitle,
  describeHit,
  describeRun,
  fileOf,
  isAccepted,
  nameOf,
  picturesOf,
  progressFraction,
  reasonOf,
} from "./runs.js";
import { t } from "./translations.js";

const CLICK_PIXELS = 4; // a pointer that moves further drags the node

export class Panel {
  #selected = null; // the index of the hit that is shown large; null: follow the run
  #page = 0; // which picture of each hit is shown
  #shownUrl = null; // the address of the large picture, or of the one that is loading
  #brokenUrl = null; // the last address without a picture
  #thumbs = new Map();

  /**
   * @param {object} calls
   * @param {(image: object) => string} calls.urlOf the address of a picture on the server
   * @param {(run: object, index: number | null) => void} calls.accept called when the user clicks Accept
   * @param {(image: HTMLImageElement) => void} calls.onPicture called with each picture that is shown large
   */
  constructor({ urlOf, accept, onPicture }) {
    this.urlOf = urlOf;
    this.onPicture = onPicture;
    this.run = null;
    this.viewer = null;
    const acceptShown = () => this.run?.acceptable && accept(this.run, this.#shownHit()?.index ?? null);
    this.enlarged = new Enlarged({
      view: () => this.view(),
      turnResult: (step) => this.#turnResult(step),
      turnPicture: (step) => this.#turnPicture(step),
      save: () => this.#save(),
      accept: acceptShown,
    });
    this.#makePicture();
    this.pager = new Pager((step) => this.#turnPicture(step));
    this.caption = make("div", "caption", { role: "status" });
    this.bar = make("div", "fill");
    this.progress = make("div", "progress", { role: "progressbar", "aria-label": t("Progress") });
    this.progress.setAttribute("aria-valuemin", "0");
    this.progress.setAttribute("aria-valuemax", "100");
    this.progress.append(this.bar);
    this.strip = make("div", "strip", { role: "group", "aria-label": t("Results so far") });
    this.status = make("div", "status");
    this.button = make("button", "accept", { type: "button" });
    this.button.addEventListener("click", acceptShown);
    const foot = make("div", "foot");
    foot.append(this.status, this.button);
    this.element = make("div", "stream");
    this.element.append(this.picture, this.pager.element, this.caption, this.progress, this.strip, foot);
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.render();
  }

  /** Show a run on the node with the execution id `viewer`. Another run than before starts with an empty strip. */
  show(run, viewer) {
    this.viewer = viewer;
    if (run !== this.run) {
      this.run = run;
      this.#selected = null;
      this.#page = 0;
      this.#thumbs.clear();
      this.strip.replaceChildren();
      this.#clearPicture();
    }
    this.render();
  }

  render() {
    const { run } = this;
    const hit = this.#shownHit();
    this.element.dataset.state = stateOf(run);
    this.badge.hidden = !run?.isEarlier;
    setText(this.badge, t("earlier run"));
    this.badge.title = t("The newest run of this workflow has not reached this node");
    this.#renderThumbs(hit);
    this.#renderCaption(hit);
    this.#renderPicture(hit);
    this.pager.render(this.#pageOf(hit), this.#picturesOf(hit).length);
    const percent = Math.round(100 * progressFraction(run));
    this.bar.style.width = `${percent}%`;
    this.progress.setAttribute("aria-valuenow", percent);
    setText(this.status, describeRun(run));
    this.status.title = run?.plan?.message ?? "";
    setText(this.button, acceptLabel(run, hit));
    this.button.disabled = !run?.acceptable;
    this.button.title = acceptTitle(run, hit);
    this.enlarged.render();
  }

  /**
   * What the enlarged view shows: the `picture` and the one of the result `before` ({url, name, file} or null), the `name`
   * of the result, the `text` about it, the `page` of so many `pages`, whether the result is the first or the last, and the Accept `button`.
   */
  view() {
    const hit = this.#shownHit();
    const place = this.#placeOf(hit);
    const { textContent: label, disabled, title } = this.button;
    return {
      picture: this.#named(hit),
      before: this.#named(this.run?.hits[place - 1], this.#pageOf(hit)), // the same item: others are not compared
      name: hit ? nameOf(hit, this.run, true) : "",
      text: [...(this.run?.isEarlier ? [t("earlier run")] : []), ...(hit ? describeHit(hit, this.run) : [])].join(" · "),
      page: this.#pageOf(hit),
      pages: this.#picturesOf(hit).length,
      isFirst: place <= 0,
      isLast: place === (this.run?.hits.length ?? 0) - 1,
      button: { label, disabled, title },
    };
  }

  #shownHit() {
    if (this.run === null) return null;
    return (this.#selected === null ? null : this.run.hit(this.#selected)) ?? this.run.shown;
  }

  #placeOf(hit) {
    return this.run?.hits.indexOf(hit) ?? -1;
  }

  #picturesOf(hit) {
    return picturesOf(hit, this.viewer);
  }

  /** The page of a hit: a hit may have fewer pictures than another, while they are made. */
  #pageOf(hit) {
    return Math.max(0, Math.min(this.#page, this.#picturesOf(hit).length - 1));
  }

  #addressOf(hit, page = this.#pageOf(hit)) {
    const image = this.#picturesOf(hit)[page];
    return image ? this.urlOf(image) : null;
  }

  /** A picture with its name, as `view` has it; null if the hit has none on this page. */
  #named(hit, page = this.#pageOf(hit)) {
    const pictures = this.#picturesOf(hit);
    const url = this.#addressOf(hit, page);
    if (url === null || url === this.#brokenUrl) return null;
    const file = fileOf(hit, this.run, pictures[page], page, pictures.length);
    return { url, name: nameOf(hit, this.run, true), file };
  }

  #turnPicture(step) {
    const hit = this.#shownHit();
    this.#page = Math.max(0, Math.min(this.#pageOf(hit) + step, this.#picturesOf(hit).length - 1));
    this.render();
  }

  #turnResult(step) {
    const hit = this.run?.hits[this.#placeOf(this.#shownHit()) + step];
    if (hit) this.#select(hit.index);
  }

  // ---------------------------------------------------------------------------------------------- picture

  #makePicture() {
    this.picture = make("div", "picture");
    this.hint = make("div", "hint");
    this.badge = make("span", "badge");
    this.save = iconButton("save", () => this.#save());
    this.enlarge = iconButton("enlarge", () => this.enlarged.open());
    const corner = make("div", "corner");
    corner.append(this.save, this.enlarge);
    this.picture.append(this.hint, this.badge, corner);
    let start = null;
    this.picture.addEventListener("pointerdown", (event) => (start = event.button === 0 ? event : null));
    this.picture.addEventListener("click", (event) => {
      const isImage = event.target instanceof HTMLImageElement;
      const moved = start ? Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) : 0;
      if (isImage && moved < CLICK_PIXELS) this.enlarged.open();
    });
  }

  #renderPicture(hit) {
    const url = this.#addressOf(hit);
    const isBroken = url !== null && url === this.#brokenUrl;
    this.picture.classList.toggle("chords-waiting", !url || isBroken);
    const missing = isBroken ? t("the picture is no longer on the server") : waitingText(this.run, hit);
    setText(this.hint, url && !isBroken ? "" : missing);
    const picture = this.#named(hit);
    this.save.hidden = picture === null;
    setName(this.save, t("Save this picture"));
    this.enlarge.hidden = picture === null;
    setName(this.enlarge, t("Enlarge"));
    if (url && url !== this.#shownUrl) this.#load(url);
  }

  #clearPicture() {
    this.#shownUrl = null;
    this.picture.querySelector("img")?.remove();
  }

  /** Save the picture that is shown. The browser may show one that the server no longer has. */
  async #save() {
    const picture = this.#named(this.#shownHit());
    if (picture === null || (await savePicture(picture))) return;
    this.#brokenUrl = picture.url;
    if (this.#shownUrl === picture.url) this.picture.querySelector("img")?.remove();
    this.render();
  }

  /** Replace the picture when the next one is loaded, so that it does not flicker. */
  async #load(url) {
    this.#shownUrl = url;
    const image = new Image();
    image.src = url;
    image.alt = this.caption.textContent;
    image.title = t("Enlarge");
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

  #renderThumbs(shownHit) {
    for (const hit of this.run?.hits ?? []) {
      const isNew = !this.#thumbs.has(hit.index);
      const thumb = isNew ? this.#addThumb(hit) : this.#thumbs.get(hit.index);
      this.#renderThumb(thumb, hit, hit === shownHit);
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

  #renderThumb(thumb, hit, isShown) {
    const name = nameOf(hit, this.run, true);
    const accepted = isAccepted(hit, this.run);
    setText(thumb.querySelector("span"), accepted ? `✓ ${name}` : name);
    thumb.classList.toggle("chords-taken", accepted);
    thumb.setAttribute("aria-pressed", isShown);
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

  /** Show a hit large; Accept takes it. The newest hit of a run that goes on: follow the run again. */
  #select(index) {
    const follows = index === this.run?.newest?.index && this.run.accepted === null;
    this.#selected = follows ? null : index;
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
