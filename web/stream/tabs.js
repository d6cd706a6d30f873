/**
 * Which opening of a workflow is on the screen. A workflow file that is opened again is the same workflow with the same
 * id, perhaps in the same tab, but it is a new opening: it has no runs yet. It is another thing to come back to a tab.
 */

const WAIT = 20; // milliseconds between two looks at the tab
const LOOKS = 10; // the frontend usually changes the tab some turns after the nodes are there
const LATE_LOOKS = 500; // or much later: it waits for the extensions of all packs

export class Tabs {
  #openings = new WeakMap(); // tab -> its newest opening
  #load = null; // the newest load of a workflow: {tab, before, opening, isFirst, isSettled}

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

  /**
   * Whether the newest load of a workflow has left the tab as it was: the workflow was opened again there, or the frontend
   * has not changed the tab yet. It may take long over that, since it waits for the extensions of all packs.
   */
  get isSame() {
    return this.#load !== null && this.activeTab() === this.#load.tab;
  }

  get #isLoading() {
    return this.#load !== null && !this.#load.isSettled;
  }

  /** A workflow begins to load: in a page that was cleared for it (else a change of the same workflow was undone). */
  begin() {
    const { isFirst } = this;
    const tab = this.activeTab();
    const opening = isFirst ? this.current : { since: performance.now() };
    this.#load = { tab, before: this.#openings.get(tab), opening, isFirst, isSettled: false };
  }

  /** Its nodes are there. Calls `onKnown` when it seems known in which tab, and again if the tab changes after that. */
  async settle(onKnown) {
    if (!this.#isLoading) return onKnown();
    const load = this.#load;
    for (let look = 0; look < LATE_LOOKS && this.#load === load; look++) {
      const isChanged = this.activeTab() !== load.tab;
      if (isChanged || look === LOOKS) {
        this.#settled(load);
        onKnown();
      }
      if (isChanged) return;
      await new Promise((done) => setTimeout(done, WAIT));
    }
  }

  #settled(load) {
    const tab = this.activeTab();
    load.isSettled = true;
    if (tab === null) return;
    if (this.isFirst) for (const each of this.openTabs()) this.#openings.set(each, { since: -Infinity });
    const isOther = tab !== load.tab;
    if (isOther && load.before) this.#openings.set(load.tab, load.before); // it was not opened again
    this.current = (isOther && !load.isFirst && this.#openings.get(tab)) || load.opening;
    this.isFirst = false;
    this.#openings.set(tab, this.current);
  }

  /** Whether a run belongs to the workflow on the screen, whose id it has. */
  has(run) {
    if (this.#isLoading) return false; // it is asked again
    if (!run.opening && run.began >= this.current.since) run.opening = this.current;
    return run.opening === this.current;
  }
}
