/**
 * Which steps are called next, and when a run ends, by what was measured: as `chords_core/methods/window_rule.py`,
 * `stepping_rule.py`, `sensitivity.py` and `estimate.py`, for one picture, even steps, and Euler (whose amplification
 * is 1).
 */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { bisectLeft, range } = CHORDS;

  const BUDGET = 1.34; // of all moves, over the tolerance
  const MAX_MOVE = 3; // of one step, over the tolerance
  const MAX_EFFECT = 3; // of all moves on the end, over the tolerance
  const MOVE_PER_SURPRISE = 0.35;
  const JUMP = 4; // from so many times the allowed surprise on, what the model expects jumps
  const DENSE_NODES = 4; // between the first steps none is left out
  const FAR = 8; // from this move on, in tolerances, a step is called again

  /** The surprise that a new step may have if the distances are to stay as they are. */
  function allowedSurprise(steps, tolerance) {
    return 34.6 * tolerance * Math.min(steps, 200) ** (-2 / 3);
  }

  /** The window: it begins at the first step that has moved too far. */
  class MovingRule {
    constructor(times, cores, tolerance) {
      this.steps = times.length - 1;
      this.cores = cores;
      this.tolerance = tolerance;
      this.gap = 1;
      this.skipped = []; // steps that were left out where the answers turned out to be rough
    }

    first() {
      return range(0, this.cores);
    }

    /** The steps of the next round, or null to end. `left`: how many rounds may follow. */
    following(measured, rounds, left) {
      this.regulate(measured);
      const start = this.start(measured);
      if (start === null) return this.largestEffects(measured);
      const { known } = measured;
      const newest = known.at(-1);
      const available = [...new Set([...known, ...this.skipped])].sort((a, b) => a - b);
      const place = bisectLeft(available, start);
      const due = Math.min(this.cores, Math.max(0, this.steps - 1 - newest - this.cores * (left - 1)));
      const chosen = available.slice(place, place + this.cores - due);
      const distance = newest >= DENSE_NODES ? Math.max(1, Math.floor(this.gap + 0.3)) : 1;
      chosen.push(...this.newSteps(newest, distance, this.cores - chosen.length));
      const spare = Math.min(this.cores - chosen.length, place);
      return [...available.slice(place - spare, place), ...chosen];
    }

    /** The steps whose moves may change the end most, if together they may change it too much. */
    largestEffects({ known, effects }) {
      if (!effects || effects.reduce((a, b) => a + b, 0) <= MAX_EFFECT * this.tolerance) return null;
      const pairs = known.map((node, k) => [effects[k], node]).sort((a, b) => b[0] - a[0] || b[1] - a[1]);
      const largest = pairs.slice(0, this.cores).filter(([effect]) => effect > 0);
      return largest.map(([, node]) => node).sort((a, b) => a - b);
    }

    start(measured) {
      const first = [...this.skipped];
      const stale = this.firstOverBudget(measured);
      if (stale !== null) first.push(stale);
      const newest = measured.known.at(-1);
      if (!first.length && newest < this.steps - 1) first.push(newest + 1);
      return first.length ? Math.min(...first) : null;
    }

    /** The first step up to which the moves exceed the budget. */
    firstOverBudget({ known, moves }) {
      const budget = (BUDGET * this.tolerance) / Math.sqrt(Math.min(this.steps, 64));
      let spent = 0;
      for (let k = 0; k < known.length; k++) {
        const end = k + 1 < known.length ? known[k + 1] : Math.min(known[k] + 1, this.steps);
        spent += (moves[k] * (end - known[k])) / this.steps;
        const allowed = budget * (end / this.steps) ** 1.5;
        if (moves[k] > MAX_MOVE * this.tolerance || spent > allowed) return known[k];
      }
      return null;
    }

    /** How far apart new steps are, and which of those between them have to be called after all. */
    regulate({ known, moves, surprises }) {
      const surprise = allowedSurprise(this.steps, this.tolerance);
      this.skipped = this.skipped.filter((step) => !known.includes(step));
      if (known.at(-1) < DENSE_NODES || !surprises.size) return;
      for (const [node, found] of surprises) {
        if (found <= JUMP * surprise) continue;
        const left = range(known[bisectLeft(known, node) - 1] + 1, node);
        this.skipped = [...new Set([...this.skipped, ...left])];
      }
      if (this.steps === 1) return;
      const newMoves = [...surprises.keys()].map((node) => moves[known.indexOf(node)]);
      const byMove = (MOVE_PER_SURPRISE * this.cores * surprise) / Math.max(1e-9, ...newMoves);
      const bySurprise = surprise / Math.max(1e-9, Math.min(...surprises.values()));
      const factor = Math.min(Math.max(0.9 * Math.min(byMove, bySurprise) ** (1 / 3), 0.5), 2);
      this.gap = Math.min(this.steps, Math.max(1, this.gap * factor));
    }

    /** At most `count` steps after the `newest`. They end exactly at the last. */
    newSteps(newest, distance, count) {
      const last = this.steps - 1;
      const found = [];
      let place = newest;
      while (found.length < count && place < last) {
        const left = last - place;
        if (distance >= left) place = last;
        else if (left - distance <= Math.floor(distance / 2)) place += Math.floor((left + 1) / 2);
        else place += distance;
        found.push(place);
      }
      return found;
    }
  }

  /** Fewer calls on one core: the next call is as far away as the tolerance allows. */
  class SteppingRule {
    constructor(times, tolerance) {
      this.steps = times.length - 1;
      this.tolerance = tolerance;
      this.gap = 1;
      this.skipped = [];
    }

    first() {
      return [0];
    }

    following(measured, rounds, left) {
      const { known, surprises } = measured;
      const newest = known.at(-1);
      const last = this.steps - 1;
      this.skipped = this.skipped.filter((step) => !known.includes(step));
      if (surprises.has(newest) && this.regulate(measured)) {
        const between = range(known[Math.max(0, known.length - 3)] + 1, newest);
        const open = between.filter((step) => !known.includes(step));
        this.skipped = [...new Set([...this.skipped, ...open])];
      }
      const spare = left > last - newest;
      if (this.skipped.length && spare) return [Math.min(...this.skipped)];
      const again = spare ? known.find((_, k) => measured.moves[k] / this.tolerance > FAR) : undefined;
      if (again !== undefined) return [again];
      if (newest === last) return null;
      return [this.next(newest)];
    }

    /** Set the gap by the newest surprise. Returns whether what the model expects jumps before the newest step. */
    regulate({ known, moves, surprises }) {
      const newest = known.at(-1);
      this.gap = newest < 3 ? 1 : this.gap;
      if (newest < 3) return false;
      const surprise = surprises.get(newest) / this.tolerance;
      const allowed = allowedSurprise(this.steps, 1);
      const far = moves.at(-1) / this.tolerance > FAR;
      if ((surprise > JUMP * allowed || far) && newest - known.at(-2) > 1) {
        this.gap = 1;
        return true;
      }
      const maxGrowth = 1 + 0.76 * Math.min(this.steps, 64) ** (-1 / 3);
      const factor = 0.85 * Math.sqrt(allowed / Math.max(surprise, 1e-9));
      this.gap = Math.max(1, this.gap * Math.min(Math.max(factor, 0.4), maxGrowth));
      return false;
    }

    next(newest) {
      const last = this.steps - 1;
      const distance = Math.max(1, Math.round(this.gap));
      const rest = last - newest - distance;
      if (rest <= 0) return last;
      const half = newest + Math.floor((last - newest + 1) / 2);
      return rest <= Math.floor(distance / 2) ? half : newest + distance;
    }
  }

  /** For each known step about how far its move changes the end. `rates`: pairs [defect, response], or null. */
  function moveEffects(known, moves, rates, times) {
    let nearest = rates.find((rate) => rate !== null) ?? [1, 1];
    const filled = rates.map((rate) => (nearest = rate ?? nearest));
    const found = [];
    let growth = 1;
    for (let k = known.length - 1; k >= 0; k--) {
      const [defect, response] = filled[k];
      const kept = times[known[k + 1] ?? times.length - 1] / times[known[k]];
      const size = 1 - times[known[k]] / times[0];
      found.unshift(growth * (1 - kept) * defect * moves[k] * size);
      growth = Math.min(1e9, growth * (kept + (1 - kept) * 1.2 * response));
    }
    return found;
  }

  /** About the relative error of a run's result, from its moves and the last change. */
  function estimatedError(moves, change, steps) {
    const squares = moves.reduce((sum, move) => sum + move * move, 0);
    return 0.06 * Math.sqrt(steps * Math.sqrt(squares) * change);
  }

  Object.assign(CHORDS, { MovingRule, SteppingRule, estimatedError, moveEffects });
})();
