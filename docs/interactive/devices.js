/**
 * Imagined devices in virtual time: as `chords_core/simulation.py` with its driver, without failures and jitter.
 * And how long a call takes that several devices share by tokens: as `benchmarks/_token_split_costs.py`.
 */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { Chords, Window, guidedModel, evenSigmas, latticeStarts } = CHORDS;

  /** As in `chords_core/simulated_devices.py`: seconds one way, bytes a second, and whether all devices share it. */
  const LINKS = {
    local: { name: "no link", latency: 0, bandwidth: Infinity, shared: false },
    nvlink: { name: "NVLink", latency: 10e-6, bandwidth: 300e9, shared: false },
    pcie: { name: "PCIe 4", latency: 50e-6, bandwidth: 12e9, shared: false },
    ethernet100: { name: "100 Gb/s network", latency: 0.5e-3, bandwidth: 11e9, shared: true },
    ethernet10: { name: "10 Gb/s network", latency: 0.5e-3, bandwidth: 1.15e9, shared: true },
    ethernet1: { name: "1 Gb/s network", latency: 0.5e-3, bandwidth: 0.117e9, shared: true },
  };

  /**
   * Models that were measured on one GPU (benchmarks/results/token_split_gpu.md). `shares`: seconds of one device's
   * share of a call with one side, by devices. `received`: gigabytes that each device receives in it. `launching`:
   * seconds in which so many threads launch their shares. `latent`: bytes of a state, in float32.
   */
  const MODELS = {
    picture: {
      name: "picture: Flux, 1024x1024",
      latent: 16 * 128 * 128 * 4,
      shares: { 1: 0.159165, 2: 0.097476, 4: 0.060343, 8: 0.056096 },
      received: { 1: 0, 2: 1.536688, 4: 2.305032, 8: 2.689204 },
      launching: { 1: 0.039848, 2: 0.10887, 4: 0.288348, 8: 0.767493 },
    },
    video: {
      name: "video: Wan 14B, 832x480, 81 frames",
      latent: 16 * 21 * 104 * 60 * 4,
      shares: { 1: 3.921897, 2: 1.990688, 4: 1.01589, 8: 0.515872 },
      received: { 1: 0, 2: 13.586227, 4: 20.379341, 8: 23.775898 },
      launching: { 1: 0.043801, 2: 0.116574, 4: 0.268524, 8: 0.744224 },
    },
  };

  /** Seconds of a whole call on a device `speed` times as fast as the measured one. A guided call has two sides. */
  function callSeconds(model, sides, speed) {
    return (sides * model.shares[1]) / speed;
  }

  /** Seconds of a call that so many devices share. The exchange comes after the computation. */
  function sharedCallSeconds(model, sides, members, speed, link) {
    const computing = Math.max((sides * model.shares[members]) / speed, model.launching[members]);
    return computing + (sides * model.received[members]) / (link.bandwidth / 1e9);
  }

  /** The latents on their way, and the calls under way. `next()` sets the clock to the next result. */
  class Pool {
    constructor(devices, payload) {
      this.devices = devices; // {seconds, link}
      this.payload = payload;
      this.now = 0;
      this.events = [];
      this.count = 0;
      this.freeAt = new Map(); // when a shared link can take the next latent
    }

    submit(lane, job) {
      const device = this.devices[lane];
      const made = this.travel(device.link, "there", this.now) + device.seconds;
      this.expect({ time: made, isBack: false, lane, job, sent: this.now });
    }

    next() {
      for (;;) {
        this.events.sort((a, b) => a.time - b.time || a.number - b.number);
        const event = this.events.shift();
        if (event.isBack) {
          this.now = Math.max(this.now, event.time);
          return { ...event, seconds: this.now - event.sent };
        }
        const back = this.travel(this.devices[event.lane].link, "back", event.time);
        this.expect({ ...event, time: back, isBack: true });
      }
    }

    expect(event) {
      this.events.push({ ...event, number: this.count++ });
    }

    travel(link, towards, time) {
      const seconds = this.payload / link.bandwidth;
      if (link.shared) {
        const key = `${link.name} ${towards}`;
        time = Math.max(time, this.freeAt.get(key) ?? 0);
        this.freeAt.set(key, time + seconds);
      }
      return time + seconds + link.latency;
    }
  }

  /** Of the lanes that are not much slower than the fastest of all, the one that has been idle the longest. */
  function chooseLane(idle, fastest) {
    const limit = fastest.size ? 1.5 * Math.min(...fastest.values()) : 0;
    const fast = idle.find((lane) => (fastest.get(lane) ?? 0) <= limit);
    return fast ?? idle.reduce((best, lane) => (fastest.get(lane) < fastest.get(best) ? lane : best));
  }

  /**
   * Run a method on devices until it has accepted a result.
   * @returns the calls {core, index, depth, lane, began, seconds} in the order in which they came back, and the
   *   results {core, depth, x, seconds}
   */
  function drive(method, denoise, devices, payload) {
    const pool = new Pool(devices, payload);
    const idle = devices.map((_, lane) => lane);
    const fastest = new Map();
    const jobs = [];
    const evaluations = [];
    const seen = [];
    let number = 0;
    for (;;) {
      for (const call of method.ready()) jobs.push({ ...call, number: number++ });
      jobs.sort((a, b) => a.depth - b.depth || a.core - b.core || a.number - b.number);
      while (idle.length && jobs.length && !method.accepted) {
        const lane = chooseLane(idle, fastest);
        idle.splice(idle.indexOf(lane), 1);
        pool.submit(lane, jobs.shift());
      }
      if (method.accepted) return { evaluations, hits: seen, seconds: pool.now };
      const { lane, job, seconds } = pool.next();
      idle.push(lane);
      fastest.set(lane, Math.min(seconds, fastest.get(lane) ?? Infinity));
      const { core, index, depth } = job;
      evaluations.push({ core, index, depth, lane, began: Math.max(0, pool.now - seconds), seconds });
      method.complete(job, denoise(job.x, job.sigma));
      for (const hit of method.hits.slice(seen.length)) seen.push({ ...hit, seconds: pool.now });
    }
  }

  /**
   * One run on the small ODE.
   * @param {object} request
   * @param {"sequential" | "chords" | "window" | "fewer"} request.method
   * @param {number} request.steps
   * @param {number} request.cores
   * @param {number} request.guidance
   * @param {number} request.tolerance for "window" and "fewer"
   * @param {number | {agreement: number}} [request.accept] for "chords"; see `Chords`
   * @param {Float64Array} request.x the initial noise
   * @param {{seconds: number, link: string}[]} request.devices a link is a key of LINKS
   * @param {number} request.payload bytes of a state
   */
  function run(request) {
    const sigmas = evenSigmas(request.steps);
    const method = makeMethod(request, sigmas);
    const devices = request.devices.map((device) => ({ ...device, link: LINKS[device.link] }));
    const driven = drive(method, guidedModel(request.guidance), devices, request.payload);
    return {
      ...driven,
      x: method.accepted.x,
      depth: method.accepted.depth,
      estimate: method.estimate ?? null,
      rectified: method.rectified,
      starts: method.starts ?? null,
    };
  }

  function makeMethod({ method, cores, tolerance, accept, x }, sigmas) {
    const steps = sigmas.length - 1;
    if (method === "sequential") return new Chords(x, sigmas, [0], 1);
    if (method === "window") return new Window(x, sigmas, cores, tolerance);
    if (method === "fewer") return new Window(x, sigmas, 1, tolerance);
    const starts = latticeStarts(steps, cores);
    return new Chords(x, sigmas, starts, typeof accept === "number" ? Math.min(accept, starts.length) : accept);
  }

  Object.assign(CHORDS, { LINKS, MODELS, callSeconds, run, sharedCallSeconds });
})();
