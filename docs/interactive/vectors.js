/** Arithmetic on pictures (Float64Array), and one step of the sampler. As `chords_core/solvers/euler.py`. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});

  /** a x + b y, for arrays of the same length. */
  function combine(a, x, b, y) {
    const sum = new Float64Array(x.length);
    for (let i = 0; i < x.length; i++) sum[i] = a * x[i] + b * y[i];
    return sum;
  }

  function difference(x, y) {
    return combine(1, x, -1, y);
  }

  function dot(x, y) {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
    return sum;
  }

  function norm(x) {
    return Math.sqrt(dot(x, x));
  }

  /** RMS(x - reference) / RMS(reference): the error in every figure. */
  function relativeError(x, reference) {
    return norm(difference(x, reference)) / norm(reference);
  }

  /** Euler's step. It treats what the model expects as constant from sigma to sigmaNext. */
  function euler(x, denoised, sigma, sigmaNext) {
    const next = new Float64Array(x.length);
    for (let i = 0; i < x.length; i++) next[i] = x[i] + ((x[i] - denoised[i]) / sigma) * (sigmaNext - sigma);
    return next;
  }

  /** The same step of any length as a linear map. CHORDS moves differences along it. */
  function jump(x, denoised, sigma, sigmaNext) {
    const ratio = sigmaNext / sigma;
    return combine(ratio, x, 1 - ratio, denoised);
  }

  /** The first place in the increasing list `values` whose value is at least `value`. */
  function bisectLeft(values, value) {
    const place = values.findIndex((each) => each >= value);
    return place < 0 ? values.length : place;
  }

  /** The first place whose value is above `value`. */
  function bisectRight(values, value) {
    const place = values.findIndex((each) => each > value);
    return place < 0 ? values.length : place;
  }

  function range(first, end) {
    return Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i);
  }

  Object.assign(CHORDS, {
    bisectLeft,
    bisectRight,
    combine,
    difference,
    dot,
    euler,
    jump,
    norm,
    range,
    relativeError,
  });
})();
