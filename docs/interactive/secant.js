/** A local model of the network at one step, from the calls there: as `chords_core/methods/secant_model.py`. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { combine, difference, dot, norm } = CHORDS;

  const RANK = 4; // directions that a step keeps
  const MAX_IMAGE = 20;
  const MIN_SLOPE = -30;
  const MIN_INDEPENDENT = 0.04;
  const EPS = Number.EPSILON;

  class SecantModel {
    constructor(at, value) {
      this.at = at;
      this.value = value;
      this.slope = null; // null before the second call
      this.directions = []; // pairs [v, w], the newest first
    }

    /** What the model is expected to answer at `at + moved`. `slope` is a neighbour's, for a step that has none. */
    predict(moved, slope) {
      const used = this.slope ?? slope;
      if (used === null) return this.value;
      let predicted = combine(1, this.value, used, moved);
      for (const [direction, rest] of this.directions) {
        predicted = combine(1, predicted, dot(moved, direction), rest);
      }
      return predicted;
    }

    /** Add a call: the answer `value` at the state `at`. Slopes are at most `highest`. */
    learn(at, value, highest) {
      const [dx, dValue] = [difference(at, this.at), difference(value, this.value)];
      const known = this.slope ?? 0;
      const square = dot(dx, dx);
      const moved = square > (16 * EPS) ** 2 * dot(at, at); // else they are equal apart from rounding
      const slope = moved ? Math.min(Math.max(dot(dx, dValue) / square, MIN_SLOPE), highest) : known;
      const length = moved ? 1 / Math.sqrt(square) : 0;
      const found = [[combine(length, dx, 0, dx), combine(length, dValue, 0, dValue)]];
      for (const [older, rest] of this.directions) {
        let direction = older;
        let image = combine(1, rest, known, older);
        for (const [newer, newerImage] of found) {
          const along = dot(direction, newer);
          direction = combine(1, direction, -along, newer);
          image = combine(1, image, -along, newerImage);
        }
        const left = dot(direction, direction);
        const scale = left > MIN_INDEPENDENT ? 1 / Math.sqrt(left) : 0;
        found.push([combine(scale, direction, 0, direction), combine(scale, image, 0, image)]);
      }
      Object.assign(this, { at, value, slope });
      this.directions = found.slice(0, RANK).map(([direction, image]) => {
        const rest = combine(1, image, -slope, direction);
        const scale = MAX_IMAGE / Math.max(norm(rest), MAX_IMAGE);
        return [direction, combine(scale, rest, 0, rest)];
      });
    }
  }

  Object.assign(CHORDS, { SecantModel });
})();
