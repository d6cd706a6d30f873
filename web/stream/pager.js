/** Which picture of each result is shown: of a batch, or of the frames of a video. */

import { iconButton, make, setName, setText } from "./elements.js";
import { t } from "./translations.js";

export class Pager {
  /** @param {(step: number) => void} onStep called with -1 or 1 when the user turns a page */
  constructor(onStep) {
    this.element = make("div", "pager", { role: "group" });
    this.before = iconButton("before", () => onStep(-1));
    this.next = iconButton("next", () => onStep(1));
    this.label = make("span", "", { "aria-live": "polite" });
    this.element.append(this.before, this.label, this.next);
  }

  /** Show page `page`, from 0, of `count`; with one page there is nothing to turn. */
  render(page, count) {
    this.element.hidden = count < 2;
    this.element.setAttribute("aria-label", t("Pictures of each result"));
    setName(this.before, t("Picture before"));
    setName(this.next, t("Next picture"));
    this.before.disabled = page === 0;
    this.next.disabled = page >= count - 1;
    setText(this.label, count < 2 ? "" : t("picture {page} of {count}", { page: page + 1, count }));
  }
}
