/** The secant window, and fewer calls, as a state machine: as `chords_core/methods/window.py`, for one picture. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { EulerPath, MovingRule, SecantModel, SteppingRule, bisectLeft, combine, difference, norm, trend } = CHORDS;
  const { estimatedError, moveEffects, relativeError } = CHORDS;

  const TRUSTED = 0.999; // from this weight of a local model on, the trend is not used
  const FIRST_TREND = 3;
  const INHERITED = 0.5; // the share of a neighbour's slope that a step without one uses
  const EPS = Number.EPSILON;
  const TINY = 2.2250738585072014e-308;

  /** A called step: its local model, and its present state on the path. */
  class Node {
    constructor(state, value) {
      this.model = new SecantModel(state, value);
      this.state = state;
      this.value = value;
      this.move = null; // null: it has not moved
      this.drift = null;
      this.rates = null; // the pair [defect, response]; null: called once
    }

    compare(at, value) {
      const distance = norm(difference(at, this.model.at));
      if (distance > 16 * EPS * norm(at)) {
        const defect = norm(difference(value, this.value)) / distance;
        this.rates = [defect, norm(difference(value, this.model.value)) / distance];
      } else {
        this.rates ??= [1, 1];
      }
    }
  }

  class Window {
    /**
     * @param {Float64Array} x the state at sigmas[0]
     * @param {number[]} sigmas N + 1 values of a flow model
     * @param {number} cores calls of a round; with 1, the steps are as far apart as the tolerance allows
     * @param {number} tolerance the relative error that is aimed at
     */
    constructor(x, sigmas, cores, tolerance) {
      this.start = x;
      this.times = sigmas;
      this.steps = sigmas.length - 1;
      this.path = new EulerPath(sigmas);
      this.cores = Math.min(cores, this.steps);
      this.rule =
        this.cores === 1 ? new SteppingRule(sigmas, tolerance) : new MovingRule(sigmas, this.cores, tolerance);
      this.known = [];
      this.nodes = new Map();
      this.waiting = [];
      this.round = 0;
      this.hits = [];
      this.rectified = [];
      this.accepted = null;
      this.estimate = null;
      this.ask(this.rule.first());
    }

    ready() {
      const calls = this.waiting;
      this.waiting = [];
      return calls;
    }

    complete(call, denoised) {
      if (this.accepted) return;
      this.results.set(call.index, denoised);
      if (this.results.size < this.asked.size) return;
      this.round += 1;
      this.solve(this.learn());
      const measured = this.measure();
      const isComplete = this.known.length === this.steps;
      const isExact = isComplete && !measured.changed.includes(true);
      const hit = { core: isExact ? 1 : 0, depth: this.round, x: this.stateAt(this.steps) };
      this.hits.push(hit);
      this.judge(measured);
      const left = this.steps - this.round;
      const following = isExact || left <= 0 ? null : this.rule.following(measured, this.round, left);
      if (following === null) {
        this.accepted = hit;
        this.estimate = this.steps === 1 ? 0 : (measured.estimate ?? null);
      } else {
        this.ask(following);
      }
    }

    ask(steps) {
      this.asked = new Map(steps.map((step) => [step, this.stateAt(step)]));
      this.results = new Map();
      let core = 0;
      for (const [index, x] of this.asked) {
        core += 1;
        this.waiting.push({ core, index, depth: this.round + 1, x, sigma: this.times[index] });
      }
    }

    /** The present state at a step, which may be the end or lie beyond all called steps. */
    stateAt(step) {
      const node = this.nodes.get(step);
      if (node) return node.state;
      if (!this.known.length) {
        if (!step) return this.start;
        const [time, first] = [this.times[step], this.times[0]];
        const guess = (1 - first) / ((1 - first) ** 2 + first ** 2);
        return combine(time / first + (1 - time / first) * guess, this.start, 0, this.start);
      }
      const before = this.known[bisectLeft(this.known, step) - 1];
      return this.follow(this.path.segment(this.known, before, step), this.nodes.get(before).state);
    }

    follow(update, state) {
      let following = combine(update.ratio, state, 0, state);
      for (const [node, weight] of update.weights) {
        following = combine(1, following, weight, this.nodes.get(node).value);
      }
      return following;
    }

    /** Give the answers to the local models. Returns the place from which on the path is solved. */
    learn() {
      this.isNew = [...this.asked.keys()].filter((step) => !this.nodes.has(step));
      for (const [step, value] of this.results) {
        const state = this.asked.get(step);
        const node = this.nodes.get(step);
        if (node) {
          node.compare(state, value);
          node.model.learn(state, value, 1 / Math.max(1 - this.times[step], 0.05));
          Object.assign(node, { value, move: null });
        } else {
          this.nodes.set(step, new Node(state, value));
          this.known.splice(bisectLeft(this.known, step), 0, step);
        }
      }
      let first = bisectLeft(this.known, Math.min(...this.results.keys()));
      const borrowing = this.known.slice(0, first).findIndex((step) => {
        const node = this.nodes.get(step);
        return node.model.slope === null && node.model.at !== node.state;
      });
      if (borrowing >= 0) first = borrowing;
      if (!this.path.looksAhead(this.known)) return first;
      return first > 3 ? first - 2 : 0;
    }

    /** For each called step the slope of the nearest step that has one. */
    borrowedSlopes() {
      const own = this.known.map((step) => this.nodes.get(step).model.slope);
      let slope = own.find((each) => each !== null) ?? null;
      return own.map((mine) => {
        slope = mine ?? slope;
        return slope === null ? null : INHERITED * slope;
      });
    }

    /** Solve the path again with the local models, from the place `first` on. */
    solve(first) {
      const { known } = this;
      const borrowed = this.borrowedSlopes();
      const sweeps = this.path.looksAhead(known) ? 2 : 1;
      for (let sweep = 0; sweep < sweeps; sweep++) {
        for (let place = first; place < known.length; place++) {
          const node = this.nodes.get(known[place]);
          if (place > first) {
            const update = this.path.segment(known, known[place - 1], known[place]);
            node.state = this.follow(update, this.nodes.get(known[place - 1]).state);
          }
          this.setValue(place, borrowed[place]);
        }
      }
    }

    setValue(place, borrowed) {
      const node = this.nodes.get(this.known[place]);
      if (place === 0 || node.state === node.model.at) {
        Object.assign(node, { value: node.model.value, move: null, drift: null });
        return;
      }
      const dx = difference(node.state, node.model.at);
      const distance = norm(dx);
      node.move = distance / this.pictureSize(this.known[place], node.state);
      node.drift = distance / Math.max(norm(node.state), TINY);
      const trusted = 1 / (1 + node.move ** 2);
      const modelled = node.model.predict(dx, borrowed);
      node.value = trusted > TRUSTED ? modelled : combine(trusted, modelled, 1 - trusted, this.trendAt(place));
    }

    /** The answer that is expected at this place from the two before it. */
    trendAt(place) {
      const before = this.nodes.get(this.known[place - 1]).value;
      if (place < 2 || this.known[place] < FIRST_TREND) return before;
      const ahead = trend(...this.known.slice(place - 2, place + 1));
      return combine(1 + ahead, before, -ahead, this.nodes.get(this.known[place - 2]).value);
    }

    /** The size of the picture that a state implies so far: the state without the noise that is left. */
    pictureSize(step, state) {
      return Math.max(norm(combine(1, state, -this.times[step] / this.times[0], this.start)), TINY);
    }

    surpriseAt(step) {
      const place = bisectLeft(this.known, step);
      const node = this.nodes.get(step);
      const off = norm(difference(node.model.value, this.trendAt(place)));
      const share = 1 - this.times[step] / this.times[this.known[place - 1]];
      return (share * off) / this.pictureSize(step, node.state);
    }

    measure() {
      const nodes = this.known.map((step) => this.nodes.get(step));
      const changed = nodes.map((node) => (node.drift ?? 0) > 8 * EPS);
      return {
        known: [...this.known],
        moves: nodes.map((node, k) => (changed[k] ? (node.move ?? 0) : 0)),
        changed,
        surprises: new Map(
          this.isNew.filter((step) => step !== this.known[0]).map((step) => [step, this.surpriseAt(step)]),
        ),
        rates: nodes.map((node) => node.rates),
      };
    }

    /** Add effects and an estimate, once the last step was called. */
    judge(measured) {
      if (measured.known.at(-1) < this.steps - 1 || this.hits.length < 2) return;
      const change = relativeError(this.hits.at(-2).x, this.hits.at(-1).x);
      measured.effects = moveEffects(measured.known, measured.moves, measured.rates, this.times);
      measured.estimate = estimatedError(measured.moves, change, this.steps);
    }
  }

  Object.assign(CHORDS, { Window });
})();
