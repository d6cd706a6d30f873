/** Reads the controls, runs the methods, and shows the figures. */

(() => {
  "use strict";
  const { LINKS, MODELS, callSeconds, initialNoise, run, sharedCallSeconds, relativeError, evenSigmas } = CHORDS;
  const { kSampler, preferred, setLanguage, translated } = CHORDS;
  const { drawError, drawPlane, drawSchedule, drawTimeline, formatError, formatSeconds, guidedModel } = CHORDS;

  const AGREEMENT = 0.05; // CHORDS ends with the first result that differs by at most this from the one before
  const TEAMS = [1, 2, 4, 8];
  const FRAME_MS = 350;
  const NAMES = {
    chords: "CHORDS",
    window: "Secant window",
    fewer: "Fewer calls",
    split: "Token split",
  };
  const ABOUT = {
    chords: "Each core starts further along the path, and a slower core corrects it. The first result comes early.",
    window: "A round calls the model at several steps at once. Then the whole path is solved again.",
    fewer: "One core leaves calls out where the answer hardly changes, and interpolates there. One device is enough.",
    split: "Devices share each call: as many as is fastest. The calls in a row stay, but each is shorter.",
  };
  const COLOURS = {
    sequential: "var(--noise)",
    chords: "var(--core-1)",
    window: "var(--core-2)",
    fewer: "var(--core-3)",
  };

  const nameOf = (key) => (key === "sequential" ? kSampler() : translated(NAMES[key]));
  const find = (selector) => document.querySelector(selector);
  const form = find("#controls");
  let seed = 1;
  let shown = null; // all that the figures show; made by `compute`
  let player = null;

  /** The settings as the controls have them. */
  function settings() {
    const number = (id) => Number(find(`#${id}`).value);
    return {
      method: form.elements.method.value,
      tolerance: Number(form.elements.fidelity.value),
      steps: number("steps"),
      cores: number("cores"),
      guidance: number("guidance"),
      devices: number("devices"),
      speed: 2 ** number("speed"),
      slow: number("slow"),
      link: find("#link").value,
      model: find("#model").value,
    };
  }

  /** Run every method with these settings. */
  function compute(chosen) {
    const model = MODELS[chosen.model];
    const sides = chosen.guidance > 1 ? 2 : 1;
    const seconds = callSeconds(model, sides, chosen.speed);
    const devices = Array.from({ length: chosen.devices }, (_, place) => ({
      seconds: place && place === chosen.devices - 1 ? seconds * chosen.slow : seconds,
      link: place ? chosen.link : "local",
    }));
    const x = initialNoise(seed);
    const request = { ...chosen, x, devices, payload: model.latent, accept: 1 };
    const sequential = run({ ...request, method: "sequential", devices: devices.slice(0, 1) });
    const finish = (found) => withErrors(found, sequential.x);
    const runs = {
      sequential: finish(sequential),
      chords: finish(chordsToTheEnd(request)),
      window: finish(run({ ...request, method: "window" })),
      fewer: finish(run({ ...request, method: "fewer", devices: devices.slice(0, 1) })),
    };
    const split = fastestTeam(chosen, model, sides);
    return { ...chosen, x, runs, seconds, sides, split, sequential: runs.sequential };
  }

  /** CHORDS to the exact result, with the result that the node takes: the first that two results agree about. */
  function chordsToTheEnd(request) {
    const accepted = run({ ...request, method: "chords", accept: { agreement: AGREEMENT } });
    const whole = run({ ...request, method: "chords", accept: request.steps });
    const { x, depth, seconds } = accepted;
    return { ...whole, x, depth, seconds, lastSeconds: whole.seconds };
  }

  /** The run with the error of each result, and the arrows between cores. */
  function withErrors(found, reference) {
    const hits = found.hits.map((hit) => ({
      ...hit,
      error: relativeError(hit.x, reference),
      accepted: hit.depth === found.depth,
    }));
    const lastDepth = Math.max(...found.evaluations.map((call) => call.depth));
    const lastSeconds = found.lastSeconds ?? found.seconds;
    const error = relativeError(found.x, reference);
    return { ...found, hits, lastDepth, lastSeconds, error, arrows: arrowsOf(found) };
  }

  /** From the call that starts a core, or whose answer corrects it, to the core's next call. */
  function arrowsOf({ starts, rectified, evaluations }) {
    if (!starts || starts.length < 2) return [];
    const call = (core, index) => evaluations.find((each) => each.core === core && each.index === index);
    const arrows = starts.slice(1).map((start, k) => [call(k + 1, starts[k]), call(k + 2, start)]);
    for (const { core, index } of rectified) {
      const base = index - (starts[core - 1] - starts[core - 2]);
      arrows.push([call(core - 1, base), call(core, index)]);
    }
    return arrows.filter(([from, to]) => from && to).map(([from, to]) => ({ from, to }));
  }

  /** How many devices share each call if the fastest way is kept, and how long a call takes then. */
  function fastestTeam({ devices, speed, slow, link }, model, sides) {
    const ways = TEAMS.filter((members) => members <= devices).map((members) => {
      const usedSpeed = members === devices && members > 1 ? speed / slow : speed; // all wait for the slowest share
      const seconds = sharedCallSeconds(model, sides, members, usedSpeed, LINKS[link]);
      return { members, seconds, computing: sharedCallSeconds(model, sides, members, usedSpeed, LINKS.local) };
    });
    return ways.reduce((best, way) => (way.seconds < best.seconds ? way : best));
  }

  /** The figures of each method for the table: calls in a row, error, seconds. */
  function rows({ runs, split, steps }) {
    const found = Object.entries(runs).map(([key, { depth, error, seconds }]) => ({ key, depth, error, seconds }));
    return [...found, { key: "split", depth: steps, error: 0, seconds: steps * split.seconds }];
  }

  function showTable() {
    const all = rows(shown);
    const most = (key) => Math.max(...all.map((row) => row[key]));
    const table = document.createElement("table");
    table.createTHead().innerHTML =
      '<tr><td></td>' +
      ["Calls in a row", "Error", "Time"].map((text) => `<th scope="col">${translated(text)}</th>`).join("") +
      "</tr>";
    const body = table.createTBody();
    for (const row of all) {
      const line = body.insertRow();
      line.className = row.key === shown.method ? "chosen" : "";
      const name = Object.assign(document.createElement("th"), { scope: "row", textContent: nameOf(row.key) });
      const bar = (value) => `<span class="bar" style="width:${(100 * value).toFixed(1)}%"></span>`;
      line.append(name);
      line.insertCell().innerHTML = `${row.depth}${bar(row.depth / most("depth"))}`;
      const error = line.insertCell();
      error.className = "error";
      const isShared = row.key === "split" && shown.split.members > 1;
      error.textContent = row.key === "sequential" ? "" : isShared ? translated("rounding") : formatError(row.error);
      line.insertCell().innerHTML = `${formatSeconds(row.seconds)}${bar(row.seconds / most("seconds"))}`;
    }
    find("#compare .plot").replaceChildren(table);
  }

  const offBy = (error) => translated("{error} off", { error: formatError(error) });

  function gained(ratio) {
    if (ratio >= 1.05) return translated("{ratio}x as fast", { ratio: ratio.toFixed(1) });
    return translated(ratio > 0.95 ? "no gain" : "slower");
  }

  function showSummary() {
    const { method, steps, sequential, split } = shown;
    const row = rows(shown).find(({ key }) => key === method);
    const calls =
      method !== "split"
        ? translated("{calls} of {steps} calls in a row", { calls: row.depth, steps })
        : split.members > 1
          ? translated("{steps} calls in a row, each shared by {members} devices", { steps, members: split.members })
          : translated("{steps} calls in a row, each on one device", { steps });
    const inexact = row.error < 1e-9 ? translated("the exact result") : offBy(row.error);
    const off = method === "split" && split.members > 1 ? translated("the same picture apart from rounding") : inexact;
    const [time, whole] = [row.seconds, sequential.seconds].map(formatSeconds);
    const gain = gained(sequential.seconds / row.seconds);
    const values = { method: nameOf(method), calls, off, time, whole, gain };
    const text = translated("{method}: <b>{calls}</b>, {off}. {time} instead of {whole}: {gain}.", values);
    find("#summary").innerHTML = text;
  }

  /** The run that the figures show. Token split makes KSampler's calls. */
  function shownRun() {
    return shown.method === "split" ? shown.sequential : shown.runs[shown.method];
  }

  function showSchedule() {
    const texts = {
      chords:
        "Colours are cores: core 1 takes every step. Lines: a core starts another one, or corrects it. " +
        "Faint: calls after the result that is taken (two results agree within 5 %).",
      window: "A column is one round. A step that has moved too far is called again.",
      fewer: "One call at a time. Steps without a dot have an interpolated answer.",
      split: "The same calls as KSampler's, one after another.",
    };
    find("#schedule .text").textContent = translated("{text} Rings: KSampler.", {
      text: translated(texts[shown.method]),
    });
    drawSchedule(find("#schedule .plot"), { ...shown, shown: shownRun(), moment: moment() });
  }

  function showTimeline() {
    const own = blocksOf(shown.sequential).map((block) => ({ ...block, kind: "own" }));
    const lanes = [{ name: kSampler(), blocks: own }];
    const marks = [];
    let last = shown.sequential.seconds;
    if (shown.method === "split") {
      for (let lane = 0; lane < shown.split.members; lane++) {
        lanes.push({ name: translated("Device {number}", { number: lane + 1 }), blocks: sharedBlocks() });
      }
      last = Math.max(last, shown.steps * shown.split.seconds);
      marks.push({ at: shown.steps * shown.split.seconds, text: translated("result") });
    } else {
      const found = shownRun();
      const used = shown.method === "fewer" ? 1 : shown.devices;
      for (let lane = 0; lane < used; lane++) {
        const blocks = blocksOf(found).filter((block) => block.lane === lane);
        lanes.push({ name: translated("Device {number}", { number: lane + 1 }), blocks });
      }
      last = Math.max(last, found.lastSeconds);
      marks.push({ at: found.seconds, text: translated("result") });
    }
    const shares = shown.method === "split" && shown.split.members > 1;
    const text = shares
      ? "Coloured: a device computes its share. Grey: keys and values come over the link."
      : shown.method === "split"
        ? "Sharing calls is not faster here, so one device makes them whole. Try NVLink, or the video."
        : "A number is a step. The time of a call includes the link, there and back. Colours as above.";
    find("#timeline .text").textContent = translated(text);
    drawTimeline(find("#timeline .plot"), { lanes, seconds: last, marks });
  }

  function blocksOf({ evaluations, depth }) {
    return evaluations.map((call) => ({
      ...call,
      text: String(call.index + 1),
      kind: call.depth > depth ? "after" : "call",
      title: translated("step {step}, core {core}: {time}", {
        step: call.index + 1,
        core: call.core,
        time: formatSeconds(call.seconds),
      }),
    }));
  }

  function sharedBlocks() {
    const { members, seconds, computing } = shown.split;
    const blocks = [];
    for (let step = 0; step < shown.steps; step++) {
      const began = step * seconds;
      const text = members > 1 ? "step {step}, one share of {members}" : "step {step}, the whole call";
      const title = translated(text, { step: step + 1, members });
      blocks.push({ began, seconds: computing, text: String(step + 1), core: 1, kind: "call", title });
      const rest = { began: began + computing, seconds: seconds - computing, title: translated("exchange") };
      if (members > 1) blocks.push({ ...rest, kind: "exchange" });
    }
    return blocks;
  }

  function showError() {
    const isWithin = shown.method === "window" || shown.method === "fewer";
    find("#error .text").textContent = translated(
      "The scale is logarithmic. A large dot is the result that is taken; smaller errors than 0.01 % are at the " +
        "bottom. KSampler's line is what the model expects on the way.",
    );
    const lines = Object.entries(shown.runs)
      .filter(([key]) => key === "sequential" || key === shown.method)
      .map(([key, found]) => ({
        name: nameOf(key),
        colour: COLOURS[key],
        chosen: key === shown.method,
        points: key === "sequential" ? expectations() : found.hits,
      }));
    drawError(find("#error .plot"), {
      lines,
      rounds: Math.max(shown.steps, shownRun().lastDepth),
      moment: moment(),
      tolerance: isWithin ? shown.tolerance : null,
    });
  }

  /** KSampler's states from the noise on, and what the model expects at each. */
  function chain() {
    const sigmas = evenSigmas(shown.steps);
    const model = guidedModel(shown.guidance);
    const states = [shown.x];
    const expected = [];
    for (let i = 0; i < shown.steps; i++) {
      expected.push(model(states[i], sigmas[i]));
      states.push(CHORDS.euler(states[i], expected[i], sigmas[i], sigmas[i + 1]));
    }
    return { states, expected };
  }

  function expectations() {
    const { expected } = shown.chain;
    const points = expected.map((x, i) => ({ depth: i + 1, error: relativeError(x, shown.sequential.x) }));
    return [...points.slice(0, -1), { depth: shown.steps, error: 0, accepted: true }];
  }

  function showPlane() {
    const calls = moment();
    const found = shownRun();
    const isOwn = shown.method === "split";
    const newest = isOwn ? undefined : found.hits.filter((hit) => hit.depth <= calls).at(-1);
    const present = isOwn ? shown.chain.states[Math.min(calls, shown.steps)] : (newest?.x ?? shown.x);
    const distance = relativeError(present, shown.sequential.x);
    const error = distance < 1e-9 ? translated("exact") : offBy(distance);
    const state = isOwn
      ? translated("the state after {count} steps", { count: calls })
      : newest
        ? translated("the result after {count} calls in a row, {error}", { count: newest.depth, error })
        : translated("the noise, as there is no result yet");
    find("#plane .text").textContent = translated(
      "Dots: {state}. Rings: KSampler's result; grey lines: its way there. " +
        "Dashed circles: the groups that the prompt names.",
      { state },
    );
    drawPlane(find("#plane .plot"), { present, reference: shown.sequential.x, paths: shown.chain.states });
  }

  const moment = () => Number(find("#moment").value);

  /** Compute and draw all. */
  function update() {
    const chosen = settings();
    showControls(chosen);
    shown = compute(chosen);
    shown.chain = chain();
    const slider = find("#moment");
    slider.max = String(Math.max(shown.steps, shownRun().lastDepth));
    slider.value = String(shown.method === "split" ? shown.steps : shownRun().depth);
    showTable();
    showSummary();
    draw();
  }

  function draw() {
    find('output[for="moment"]').textContent = find("#moment").value;
    showSchedule();
    showTimeline();
    showError();
    showPlane();
  }

  function showControls(chosen) {
    const sides = chosen.guidance > 1 ? 2 : 1;
    const seconds = callSeconds(MODELS[chosen.model], sides, chosen.speed);
    const texts = {
      steps: chosen.steps,
      cores: chosen.cores,
      guidance: chosen.guidance,
      devices: chosen.devices,
      speed: translated("{speed}x, {time} a call", {
        speed: Number(chosen.speed.toPrecision(2)),
        time: formatSeconds(seconds),
      }),
      slow: chosen.slow === 1 ? translated("as long") : translated("{times}x as long", { times: chosen.slow }),
    };
    for (const [id, text] of Object.entries(texts)) {
      find(`output[for="${id}"]`).textContent = text;
      find(`#${id}`).setAttribute("aria-valuetext", String(text));
    }
    find("#about").textContent = translated(ABOUT[chosen.method]);
    const usesCores = chosen.method === "chords" || chosen.method === "window";
    find("#cores").disabled = !usesCores;
    find("#slow").disabled = chosen.devices === 1;
    const usesFidelity = chosen.method === "window" || chosen.method === "fewer";
    for (const radio of form.elements.fidelity) radio.disabled = !usesFidelity;
    find(".row").classList.toggle("off", !usesFidelity);
  }

  function stopPlaying() {
    clearInterval(player);
    player = null;
    find("#play").textContent = translated("Play");
  }

  function togglePlaying() {
    if (player !== null) {
      stopPlaying();
      return;
    }
    const slider = find("#moment");
    const end = shown.method === "split" ? shown.steps : shownRun().lastDepth;
    if (Number(slider.value) >= end) slider.value = "0";
    find("#play").textContent = translated("Pause");
    player = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      draw();
      if (Number(slider.value) >= end) stopPlaying();
    }, FRAME_MS);
    draw();
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    find("#theme").textContent = translated(theme === "dark" ? "Light" : "Dark");
    find("#theme").setAttribute("aria-pressed", String(theme === "dark"));
  }

  function changed() {
    stopPlaying();
    update();
  }

  function chooseLanguage(language) {
    setLanguage(language);
    setTheme(document.documentElement.dataset.theme);
    changed();
  }

  const darkQuery = matchMedia("(prefers-color-scheme: dark)");
  setTheme(darkQuery.matches ? "dark" : "light");
  darkQuery.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  find("#theme").addEventListener("click", () => {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", changed);
  form.addEventListener("reset", () => {
    seed = 1;
    setTimeout(changed); // the controls have their first values after this event
  });
  find("#noise").addEventListener("click", () => {
    seed += 1;
    changed();
  });
  find("#language").addEventListener("change", (event) => chooseLanguage(event.target.value));
  find("#moment").addEventListener("input", () => {
    stopPlaying();
    draw();
  });
  find("#play").addEventListener("click", togglePlaying);
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) < 1) return;
    width = entry.contentRect.width;
    if (shown) draw();
  }).observe(find("#figures"));
  find("#language").value = preferred(navigator.languages);
  chooseLanguage(find("#language").value);
})();
