/** The large view of a result, over the whole page: turn results and pictures, compare, save, accept. Escape closes it. */

import { iconButton, make, setName, setText } from "./elements.js";
import { Pager } from "./pager.js";
import { t } from "./translations.js";

const HALF = 50; // percent of the width at which the comparison begins

export class Enlarged {
  /**
   * @param {object} calls
   * @param {() => object} calls.view what there is to show; see `Panel.view`
   * @param {(step: number) => void} calls.turnResult called with -1 or 1
   * @param {(step: number) => void} calls.turnPicture called with -1 or 1
   * @param {() => void} calls.save called when the user clicks Save
   * @param {() => void} calls.accept called when the user clicks Accept
   */
  constructor({ view, turnResult, turnPicture, save, accept }) {
    this.view = view;
    this.turnResult = turnResult;
    this.dialog = make("dialog", "enlarged");
    this.image = make("img");
    this.other = make("img", "other", { draggable: "false" });
    this.names = [make("span", "name chords-left"), make("span", "name chords-right")];
    this.divider = make("div", "divider");
    this.slider = make("input", "slider", { type: "range", min: "0", max: "100", step: "1" });
    this.slider.addEventListener("input", () => this.#place());
    this.frame = make("div", "large");
    this.frame.append(this.image, this.other, this.divider, this.slider, ...this.names);
    this.image.draggable = false;
    const stage = make("div", "stage");
    stage.append(this.frame);
    this.caption = make("div", "caption");
    this.compare = make("button", "compare", { type: "button", "aria-pressed": "false" });
    this.compare.addEventListener("click", () => this.#compare(!this.comparing));
    this.close = iconButton("close", () => this.dialog.close());
    this.before = iconButton("before", () => turnResult(-1));
    this.next = iconButton("next", () => turnResult(1));
    this.result = make("span");
    this.pager = new Pager(turnPicture);
    this.save = iconButton("save", save);
    this.accept = make("button", "accept", { type: "button" });
    this.accept.addEventListener("click", accept);
    const tools = make("div", "tools");
    const results = make("div", "pager", { role: "group", "aria-label": t("Results so far") });
    results.append(this.before, this.result, this.next);
    tools.append(results, this.pager.element, this.compare, this.save, this.accept);
    this.dialog.append(this.close, stage, this.caption, tools);
    const onKey = (event) => this.#onKey(event);
    this.listen = () => window.addEventListener("keydown", onKey, { capture: true });
    this.dialog.addEventListener("close", () => {
      window.removeEventListener("keydown", onKey, { capture: true });
      this.dialog.remove();
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.#followPointer();
  }

  get comparing() {
    return this.compare.getAttribute("aria-pressed") === "true";
  }

  open() {
    document.body.append(this.dialog);
    this.#compare(false);
    this.dialog.showModal();
    this.listen();
  }

  /** Show the newest state, if it is open. */
  render() {
    if (!this.dialog.isConnected) return;
    const { picture, before, name, text, page, pages, isFirst, isLast, button } = this.view();
    this.dialog.setAttribute("aria-label", text);
    setText(this.caption, text);
    setText(this.result, name);
    setName(this.close, t("Close"));
    setName(this.before, t("Result before"));
    setName(this.next, t("Next result"));
    setName(this.save, t("Save this picture"));
    this.before.disabled = isFirst;
    this.next.disabled = isLast;
    this.pager.render(page, pages);
    this.save.hidden = picture === null;
    setText(this.accept, button.label);
    if (button.disabled && document.activeElement === this.accept) this.close.focus(); // not lost to the page
    this.accept.disabled = button.disabled;
    this.accept.title = button.title;
    this.#renderPictures(picture, before);
  }

  #renderPictures(picture, before) {
    setAddress(this.image, picture);
    this.image.onload = () => {
      this.frame.style.setProperty("--chords-ratio", this.image.naturalWidth / this.image.naturalHeight);
    };
    const canCompare = picture !== null && before !== null;
    const comparing = canCompare && this.comparing;
    this.compare.hidden = !canCompare;
    setText(this.compare, before ? t("Compare with {name}", before) : "");
    for (const part of [this.other, this.divider, this.slider, ...this.names]) part.hidden = !comparing;
    if (!comparing) return;
    setAddress(this.other, before);
    setText(this.names[0], before.name);
    setText(this.names[1], picture.name);
    this.slider.setAttribute("aria-label", t("{before} on the left, {after} on the right", {
      before: before.name,
      after: picture.name,
    }));
    this.#place();
  }

  #compare(isOn) {
    this.compare.setAttribute("aria-pressed", isOn);
    this.slider.value = HALF;
    this.render();
  }

  /** Show the picture before on the left of the slider. */
  #place() {
    const percent = Number(this.slider.value);
    this.other.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
    this.divider.style.left = `${percent}%`;
  }

  /** The pointer moves the divider, while it is held down on the picture. */
  #followPointer() {
    const follow = (event) => {
      if (!this.comparing || event.target === this.slider || !(event.buttons & 1)) return;
      const box = this.frame.getBoundingClientRect();
      this.slider.value = (100 * (event.clientX - box.left)) / box.width;
      this.#place();
    };
    this.frame.addEventListener("pointerdown", (event) => {
      if (event.target === this.slider) return;
      if (this.comparing && event.button === 0) this.frame.setPointerCapture(event.pointerId);
      follow(event);
    });
    this.frame.addEventListener("pointermove", follow);
  }

  #onKey(event) {
    event.stopPropagation(); // neither the canvas nor the frontend must get these keys
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const isTurn = step && event.target !== this.slider;
    if (isTurn || event.key === "Escape") event.preventDefault();
    if (isTurn) this.turnResult(step);
    if (event.key === "Escape") this.dialog.close();
  }
}

function setAddress(image, picture) {
  if (picture === null) image.removeAttribute("src");
  else if (image.getAttribute("src") !== picture.url) image.src = picture.url;
  image.alt = picture?.name ?? "";
}
