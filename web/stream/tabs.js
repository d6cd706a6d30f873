/**
 * Which opening of a workflow is on the screen. A workflow file that is opened again is the same workflow with the same
 * id, perhaps in the same tab, but it is a new opening: it has no runs yet. It is another thing to come back to a tab.
 */

const WAIT = 20; // milliseconds between two looks at the tab
const LOOKS = 10; // the frontend changes the tab some turns after the nodes are there

export class Tabs {
  #openings = new WeakMap(); // tab -> its newest opening
  #begun = null; // while a workflow is loaded: {tab, at}

  /**
   * @param {() => object | null} activeTab the frontend's tab; null if it does not say
   * @param {() => object[]} openTabs all its tabs
   */
  constructor(activeTab, openTabs) {
    this.activeTab = activeTab;
    this.openTabs = openTabs;
    this.current = { since: -Infinity }; // what a page shows at first may have run before the page was opened
    this.isFirst = true;
  }

  /** Whether a workflow is being loaded, and the tab on the screen is still the one before. */
  get isChanging() {
    return this.#begun !== null && this.activeTab() === this.#begun.tab;
  }

  /** A workflow begins to load: in a page that was cleared for it (else a change of the same workflow was undone). */
  begin() {
    this.#begun = { tab: this.activeTab(), at: performance.now() };
  }

  /** Its nodes are there. Returns when it is known in which tab. */
  async settle() {
    const begun = this.#begun;
    if (begun === null) return;
    for (let look = 0; look < LOOKS && this.isChanging; look++) await new Promise((done) => setTimeout(done, WAIT));
    if (this.#begun === begun) this.#settled(begun);
  }

  #settled({ tab: tabBefore, at }) {
    const tab = this.activeTab();
    this.#begun = null;
    if (tab === null) return;
    if (this.isFirst) for (const each of this.openTabs()) this.#openings.set(each, { since: -Infinity });
    const known = tab === tabBefore ? null : this.#openings.get(tab);
    if (!this.isFirst) this.current = known ?? { since: at };
    this.isFirst = false;
    this.#openings.set(tab, this.current);
  }

  /** Whether a run belongs to the workflow on the screen, whose id it has. */
  has(run) {
    if (this.#begun !== null) return false; // it is asked again
    if (!run.opening && run.began >= this.current.since) run.opening = this.current;
    return run.opening === this.current;
  }
}
