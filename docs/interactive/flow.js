/** The small ODE of the page: a "picture" of points in the plane, and a model that knows the exact answer. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});

  /** The data: each point lies near one of eight centres on a circle. The prompt names every second one. */
  const [MIDDLE, RADIUS] = [[0.3, -0.2], 1.9];
  const CENTRES = Array.from({ length: 8 }, (_, k) => ({
    at: [MIDDLE[0] + RADIUS * Math.cos((k * Math.PI) / 4), MIDDLE[1] + RADIUS * Math.sin((k * Math.PI) / 4)],
    prompted: k % 2 === 0,
  }));
  const SPREAD = 0.3;
  const POINTS = 32;

  /**
   * The mean of a point before noise, if its data lie near `centres`. Exact for this data: it is the score.
   * A state with noise level t is (1 - t) times the point plus t times noise.
   */
  function meanOf(centres, x, y, t, out) {
    const alpha = 1 - t;
    const variance = (alpha * SPREAD) ** 2 + t * t;
    const pull = (alpha * SPREAD ** 2) / variance;
    const scores = centres.map(({ at }) => {
      const dx = x - alpha * at[0];
      const dy = y - alpha * at[1];
      return -(dx * dx + dy * dy) / (2 * variance);
    });
    const highest = Math.max(...scores);
    let total = 0;
    out[0] = out[1] = 0;
    centres.forEach(({ at }, k) => {
      const odds = Math.exp(scores[k] - highest);
      total += odds;
      out[0] += odds * (at[0] + pull * (x - alpha * at[0]));
      out[1] += odds * (at[1] + pull * (y - alpha * at[1]));
    });
    out[0] /= total;
    out[1] /= total;
  }

  /**
   * A model call with classifier-free guidance: both sides, and the first one pushed away from the second.
   * @param {number} guidance the guidance scale (CFG); 1: the side with the prompt alone
   * @returns {(x: Float64Array, t: number) => Float64Array} what the model expects at a state
   */
  function guidedModel(guidance) {
    const prompted = CENTRES.filter((centre) => centre.prompted);
    const [withPrompt, without] = [new Float64Array(2), new Float64Array(2)];
    return (x, t) => {
      const answer = new Float64Array(x.length);
      for (let i = 0; i < x.length; i += 2) {
        meanOf(prompted, x[i], x[i + 1], t, withPrompt);
        meanOf(CENTRES, x[i], x[i + 1], t, without);
        answer[i] = without[0] + guidance * (withPrompt[0] - without[0]);
        answer[i + 1] = without[1] + guidance * (withPrompt[1] - without[1]);
      }
      return answer;
    };
  }

  /** Initial noise of a picture, from a seed: x and y of each point in turn. */
  function initialNoise(seed, points = POINTS) {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0; // the generator "mulberry32"
      let bits = Math.imul(state ^ (state >>> 15), state | 1);
      bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
      return (((bits ^ (bits >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    const noise = new Float64Array(2 * points);
    for (let i = 0; i < noise.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(uniform()));
      const angle = 2 * Math.PI * uniform();
      noise[i] = radius * Math.cos(angle);
      noise[i + 1] = radius * Math.sin(angle);
    }
    return noise;
  }

  /** The sigmas of N steps, evenly spaced from 1 to 0. */
  function evenSigmas(steps) {
    return Array.from({ length: steps + 1 }, (_, i) => (steps - i) / steps);
  }

  Object.assign(CHORDS, { CENTRES, SPREAD, evenSigmas, guidedModel, initialNoise });
})();
