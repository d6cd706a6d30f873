/** The trajectory of Euler as linear maps between the steps that were called: as `chords_core/methods/path.py`. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { bisectLeft, bisectRight, range } = CHORDS;

  const POINTS = 4; // answers of the interpolation: a cubic
  const FIRST_TREND = 2; // the first step whose answer may show a trend

  /** The answer at the step `at` as a weighted sum of the answers at the `known` steps: pairs [place, weight]. */
  function interpolationWeights(known, at) {
    const right = bisectRight(known, at);
    if (right === 0 || known.length === 1) return [[0, 1]];
    if (right === known.length) return [[right - 1, 1]];
    const lowest = Math.min(Math.max(right - POINTS / 2, 0), Math.max(known.length - POINTS, 0));
    const places = range(lowest, Math.min(lowest + POINTS, known.length));
    return places.map((k) => {
      const others = places.filter((other) => other !== k);
      return [k, others.reduce((share, other) => share * ((at - known[other]) / (known[k] - known[other])), 1)];
    });
  }

  /** How much of the last change of the answer is expected again until `step`: 1/2 after the same distance. */
  function trend(before, newest, step) {
    return 1 - 0.5 ** ((step - newest) / (newest - before));
  }

  /** The answer at any step from those at the `known` ones: pairs [step, weight]. */
  function predictionWeights(known, step) {
    const newest = known.at(-1);
    if (step <= newest) return interpolationWeights(known, step).map(([place, share]) => [known[place], share]);
    if (known.length === 1 || newest < FIRST_TREND) return [[newest, 1]];
    const before = known.at(-2);
    const ahead = trend(before, newest, step);
    return [
      [newest, 1 + ahead],
      [before, -ahead],
    ];
  }

  /** Euler's updates on its own steps: x_next = ratio x + sum of weight D_j. */
  class EulerPath {
    constructor(sigmas) {
      this.steps = sigmas.length - 1;
      this.updates = range(0, this.steps).map((i) => {
        const ratio = sigmas[i + 1] / sigmas[i];
        return { ratio, weights: [[i, 1 - ratio]] };
      });
    }

    /** Whether steps were left out between the known ones, so that segments look ahead. */
    looksAhead(known) {
      return known.at(-1) - known[0] >= known.length;
    }

    /** The update from the known step `first` to the step `last`, with answers of known steps only. */
    segment(known, first, last) {
      const place = bisectLeft(known, first);
      const around = known.slice(Math.max(0, place - 2), place + 4);
      if (last === first + 1 && around.at(-1) - around[0] === around.length - 1) return this.updates[first];
      return this.composed(last > known.at(-1) ? known : around, first, last);
    }

    composed(known, first, last) {
      let ratio = 1;
      const weights = new Map(known.map((node) => [node, 0]));
      for (let i = last - 1; i >= first; i--) {
        const update = this.updates[i];
        for (const [j, weight] of update.weights) {
          for (const [node, share] of predictionWeights(known, j)) {
            weights.set(node, weights.get(node) + ratio * weight * share);
          }
        }
        ratio *= update.ratio;
      }
      return { ratio, weights: [...weights].filter(([, weight]) => weight !== 0) };
    }
  }

  Object.assign(CHORDS, { EulerPath, trend });
})();
