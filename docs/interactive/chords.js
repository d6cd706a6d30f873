/** CHORDS (arXiv 2507.15260) as a state machine: the same as `chords_core/methods/chords.py`, for Euler. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { combine, difference, euler, jump, relativeError } = CHORDS;

  /** Calls in a row until `core` (1 is the slowest) reaches the end. */
  function hitDepth(steps, starts, core) {
    return steps - starts[core - 1] + core - 1;
  }

  /** Evenly spaced start indices, as `chords_core.lattice_starts`. */
  function latticeStarts(steps, cores, q = 2) {
    cores = Math.min(cores, steps);
    if (cores === 1) return [0];
    if (cores === 2) return [0, Math.max(1, Math.floor(steps / (q + 1)))];
    q = Math.min(q, steps - 1 - (cores - 2));
    const gap = Math.min(Math.ceil(steps / (cores + q)), Math.floor((steps - 1) / (cores - 2 + q)));
    const starts = [0];
    for (let core = 2; core <= cores; core++) starts.push(steps - (q + cores - core) * gap);
    return starts;
  }

  /** For each core the last index whose call is needed for the results down to `lastCore`. */
  function neededIndices(steps, starts, lastCore) {
    const last = starts.map(() => steps - 1);
    let arrival = steps;
    for (let k = lastCore - 2; k >= 0; k--) {
      const start = starts[k + 1];
      const gap = start - starts[k];
      const corrections = Math.floor((arrival - start) / gap);
      last[k] = corrections > 0 ? start + (corrections - 1) * gap : starts[k];
      arrival = last[k];
    }
    return last;
  }

  class Chords {
    /**
     * @param {Float64Array} x the state at sigmas[0]
     * @param {number[]} sigmas N + 1 values
     * @param {number[]} starts the start index of each core
     * @param {number | {agreement: number}} accept the number of the result that ends the run, or the largest
     *   change from the result before
     */
    constructor(x, sigmas, starts, accept) {
      this.sigmas = sigmas;
      this.steps = sigmas.length - 1;
      this.starts = starts;
      this.accept = accept;
      const lastCore = typeof accept === "number" ? starts.length - accept + 1 : 1;
      this.lastIndices = neededIndices(this.steps, starts, lastCore);
      this.cores = [];
      this.offered = new Map(); // "core index" -> what a faster core has not been corrected by yet
      this.ends = new Map();
      this.waiting = [];
      this.hits = [];
      this.rectified = [];
      this.accepted = null;
      this.startCore(x);
    }

    /** The calls that may start now and were not returned before. */
    ready() {
      const calls = this.waiting.sort((a, b) => a.depth - b.depth || a.core - b.core);
      this.waiting = [];
      return calls;
    }

    /** Take the answer of one call. */
    complete(call, denoised) {
      if (this.accepted) return;
      const core = this.cores[call.core - 1];
      core.denoised = denoised;
      if (core.index === core.base) core.baseDenoised = denoised;
      if (core.index === this.starts[call.core - 1]) this.jumpOn(call.core);
      if (call.core < this.starts.length) this.offer(call.core);
      this.advance(call.core);
      if (call.core < this.cores.length) this.advance(call.core + 1);
      this.settle();
    }

    startCore(x) {
      const number = this.cores.length + 1;
      const start = this.starts[number - 1];
      const gap = number > 1 ? start - this.starts[number - 2] : 0;
      const last = this.lastIndices[number - 1];
      this.cores.push({ index: start, gap, last, x, denoised: null, base: start, baseX: x, baseDenoised: null });
      this.request(number);
    }

    request(number) {
      const { index, last, x } = this.cores[number - 1];
      if (index > last) return;
      const depth = index - this.starts[number - 1] + number;
      this.waiting.push({ core: number, index, depth, x, sigma: this.sigmas[index] });
    }

    /** From a core's first answer, start the next core; from the fastest core's, make the draft. */
    jumpOn(number) {
      const core = this.cores[number - 1];
      const isFastest = number === this.starts.length;
      const target = isFastest ? this.steps : this.starts[number];
      const jumped = euler(core.x, core.denoised, this.sigmas[core.index], this.sigmas[target]);
      if (isFastest) this.hits.push({ core: 0, depth: number, x: jumped });
      else this.startCore(jumped);
    }

    offer(number) {
      const core = this.cores[number - 1];
      const start = this.starts[number];
      if (core.index >= start && (core.index - start) % (start - this.starts[number - 1]) === 0) {
        this.offered.set(`${number} ${core.index}`, { x: core.x, denoised: core.denoised });
      }
    }

    /** Move a core one step on, if all that it waits for has come. */
    advance(number) {
      const core = this.cores[number - 1];
      if (!core.denoised) return;
      const following = core.index + 1;
      const due = core.gap > 0 && following === core.base + core.gap;
      const better = this.offered.get(`${number - 1} ${core.base}`);
      if (due && !better) return;
      let x = euler(core.x, core.denoised, this.sigmas[core.index], this.sigmas[following]);
      if (due) {
        this.offered.delete(`${number - 1} ${core.base}`);
        const [dx, dDenoised] = [difference(better.x, core.baseX), difference(better.denoised, core.baseDenoised)];
        x = combine(1, x, 1, jump(dx, dDenoised, this.sigmas[core.base], this.sigmas[following]));
        this.rectified.push({ core: number, index: following, depth: core.index - this.starts[number - 1] + number });
        Object.assign(core, { base: following, baseX: x, baseDenoised: null });
      }
      Object.assign(core, { index: following, x, denoised: null });
      if (following === this.steps) this.ends.set(number, x);
      else this.request(number);
    }

    /** Report results from the fastest core on, and accept one. */
    settle() {
      while (this.hits.length && !this.accepted) {
        const number = this.starts.length - this.hits.length + 1;
        if (!this.ends.has(number)) return;
        const before = this.hits.at(-1);
        const hit = { core: number, depth: hitDepth(this.steps, this.starts, number), x: this.ends.get(number) };
        this.hits.push(hit);
        if (this.isEnough(hit, before, number)) this.accepted = hit;
      }
    }

    isEnough(hit, before, number) {
      if (typeof this.accept === "number") return this.hits.length > this.accept;
      return number === 1 || (before.core > 0 && relativeError(before.x, hit.x) <= this.accept.agreement);
    }
  }

  Object.assign(CHORDS, { Chords, hitDepth, latticeStarts });
})();
