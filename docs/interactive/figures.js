/** Draws the figures of the page as SVG, from finished runs. It computes nothing of the methods. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});
  const { CENTRES, SPREAD, translated } = CHORDS;
  const SVG = "http://www.w3.org/2000/svg";

  /** An SVG element with attributes and children; a child that is text becomes its text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** An empty drawing as wide as its place, with a description for screen readers. */
  function canvas(place, height, description) {
    const width = Math.max(260, place.clientWidth);
    const drawing = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": description });
    place.replaceChildren(drawing);
    return { drawing, width, height };
  }

  const coreColour = (core) => `var(--core-${((core - 1) % 8) + 1})`;

  function line(x1, y1, x2, y2, name, others = {}) {
    return make("line", { x1, y1, x2, y2, class: name, ...others });
  }

  function label(x, y, text, name = "tick", anchor = "middle") {
    return make("text", { x, y, class: name, "text-anchor": anchor }, text);
  }

  /** About `count` round values from 0 to `highest`. */
  function ticks(highest, count) {
    const rough = highest / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const values = [];
    for (let value = 0; value <= highest + step * 1e-9; value += step) values.push(Number(value.toPrecision(6)));
    return values;
  }

  function wholeTicks(highest, count) {
    return [...new Set(ticks(highest, count).map(Math.round))];
  }

  /** 2. Steps over calls in a row: a dot is a call. Arrows go from a call to the core that it starts or corrects. */
  function drawSchedule(place, { shown, sequential, steps, moment }) {
    const height = Math.min(360, 120 + steps * 7);
    const description = translated("{calls} calls at {steps} steps, in {rounds} rounds", {
      calls: shown.evaluations.length,
      steps,
      rounds: shown.lastDepth,
    });
    const { drawing, width } = canvas(place, height, description);
    const [left, right, top, bottom] = [44, 12, 10, 40];
    const rounds = Math.max(steps, shown.lastDepth);
    const x = (depth) => left + ((depth - 0.5) / rounds) * (width - left - right);
    const y = (index) => height - bottom - ((index + 0.5) / steps) * (height - top - bottom);
    for (const value of wholeTicks(rounds, width < 500 ? 5 : 10).slice(1)) {
      drawing.append(line(x(value), top, x(value), height - bottom, "grid"));
      drawing.append(label(x(value), height - bottom + 16, String(value)));
    }
    for (const value of wholeTicks(steps, 5).slice(1)) {
      drawing.append(label(left - 8, y(value - 1) + 4, String(value), "tick", "end"));
    }
    drawing.append(label((left + width - right) / 2, height - 4, translated("calls in a row"), "label"));
    const middle = (height - bottom + top) / 2;
    const turned = `translate(12 ${middle}) rotate(-90)`;
    drawing.append(make("text", { class: "label", "text-anchor": "middle", transform: turned }, translated("step")));
    const radius = Math.max(2.4, Math.min(6, ((height - top - bottom) / steps) * 0.42));
    for (const call of sequential.evaluations) {
      drawing.append(make("circle", { cx: x(call.depth), cy: y(call.index), r: radius, class: "own" }));
    }
    for (const { from, to } of shown.arrows) {
      drawing.append(line(x(from.depth), y(from.index), x(to.depth), y(to.index), "arrow", { opacity: 0.5 }));
    }
    for (const call of shown.evaluations) {
      const dot = make("circle", { cx: x(call.depth), cy: y(call.index), r: radius, fill: coreColour(call.core) });
      if (call.depth > shown.depth) dot.setAttribute("class", "after");
      const told = { core: call.core, step: call.index + 1, call: call.depth };
      dot.append(make("title", {}, translated("core {core}, step {step}, call {call} in a row", told)));
      drawing.append(dot);
    }
    const now = left + (moment / rounds) * (width - left - right);
    drawing.append(line(now, top, now, height - bottom, "now"));
  }

  /** 3. Devices over seconds. `lanes`: {name, blocks: {began, seconds, text, core, kind, title}}. */
  function drawTimeline(place, { lanes, seconds, marks }) {
    const [rowHeight, left, right, bottom, top] = [26, 84, 14, 40, 22];
    const height = top + lanes.length * rowHeight + bottom;
    const description = lanes
      .map(({ name, blocks }) => translated("{name}: {count} calls", { name, count: blocks.length }))
      .join("; ");
    const { drawing, width } = canvas(place, height, description);
    const x = (moment) => left + (moment / seconds) * (width - left - right);
    for (const value of ticks(seconds, width < 500 ? 4 : 8)) {
      drawing.append(line(x(value), top, x(value), height - bottom, "grid"));
      drawing.append(label(x(value), height - bottom + 16, String(value)));
    }
    drawing.append(label((left + width - right) / 2, height - 4, translated("seconds"), "label"));
    lanes.forEach(({ name, blocks }, row) => {
      const y = top + row * rowHeight;
      drawing.append(label(left - 8, y + rowHeight / 2 + 4, name, "tick", "end"));
      for (const block of blocks) {
        const wide = Math.max(1, x(block.began + block.seconds) - x(block.began) - 1);
        const box = make("rect", { x: x(block.began), y: y + 3, width: wide, height: rowHeight - 6, rx: 2 });
        if (block.kind === "exchange" || block.kind === "own") box.setAttribute("class", "exchange");
        else box.setAttribute("fill", coreColour(block.core));
        if (block.kind === "after") box.setAttribute("class", "after");
        box.append(make("title", {}, block.title));
        drawing.append(box);
        if (block.text && block.kind !== "after" && wide >= 7 + 6 * block.text.length) {
          const text = label(x(block.began) + wide / 2, y + rowHeight / 2 + 4, block.text, "inside");
          text.setAttribute("pointer-events", "none");
          drawing.append(text);
        }
      }
    });
    for (const { at, text } of marks) {
      drawing.append(line(x(at), top - 4, x(at), height - bottom, "now"));
      const anchor = x(at) > width - 90 ? "end" : x(at) < left + 50 ? "start" : "middle";
      drawing.append(label(x(at), top - 8, text, "strong", anchor));
    }
  }

  /** 4. Errors over calls in a row, on a logarithmic axis. `lines`: {name, colour, points: {depth, error}, chosen}. */
  function drawError(place, { lines, rounds, moment, tolerance }) {
    const height = 270;
    const described = lines
      .map(({ name, points }) => translated("{name}: {count} results", { name, count: points.length }))
      .join("; ");
    const { drawing, width } = canvas(place, height, described);
    const [left, right, top, bottom] = [50, 12, 10, 40];
    const [lowest, highest] = [1e-4, 2];
    const x = (depth) => left + (depth / rounds) * (width - left - right);
    const share = (error) => Math.log(Math.min(Math.max(error, lowest), highest) / lowest) / Math.log(highest / lowest);
    const y = (error) => height - bottom - share(error) * (height - top - bottom);
    for (const value of [1, 0.1, 0.01, 0.001]) {
      drawing.append(line(left, y(value), width - right, y(value), "grid"));
      drawing.append(label(left - 8, y(value) + 4, `${value * 100} %`, "tick", "end"));
    }
    drawing.append(label(left - 8, y(lowest) + 4, "0.01 %", "tick", "end"));
    drawing.append(line(left, y(lowest), width - right, y(lowest), "axis"));
    for (const value of wholeTicks(rounds, width < 500 ? 5 : 10)) {
      drawing.append(label(x(value), height - bottom + 16, String(value)));
    }
    drawing.append(label((left + width - right) / 2, height - 4, translated("calls in a row"), "label"));
    if (tolerance) {
      drawing.append(line(left, y(tolerance), width - right, y(tolerance), "arrow", { "stroke-dasharray": "5 4" }));
      drawing.append(label(width - right, y(tolerance) - 5, translated("fidelity: {percent} %", { percent: tolerance * 100 }), "label", "end"));
    }
    for (const { name, colour, points, chosen } of lines) {
      const path = points.map(({ depth, error }) => `${x(depth)},${y(error)}`).join(" ");
      drawing.append(
        make("polyline", { points: path, fill: "none", stroke: colour, "stroke-width": chosen ? 2.4 : 1.2 }),
      );
      for (const { depth, error, accepted } of points) {
        const radius = accepted ? 6 : chosen ? 3.5 : 2.2;
        const dot = make("circle", { cx: x(depth), cy: y(error), r: radius, fill: colour });
        const told = { name, error: formatError(error), count: depth };
        dot.append(make("title", {}, translated("{name}: {error} after {count} calls in a row", told)));
        drawing.append(dot);
      }
    }
    drawing.append(line(x(moment), top, x(moment), height - bottom, "now"));
  }

  /** 5. The points of the picture: KSampler's as rings, the present ones as dots. */
  function drawPlane(place, { present, reference, paths }) {
    const width = Math.max(260, place.clientWidth);
    const height = Math.min(460, width);
    const { drawing } = canvas(place, height, translated("The points of the picture, each with a line to where KSampler has it"));
    const [reach, middle] = [2.75, [0.3, -0.2]];
    const scale = Math.min(width, height) / (2 * reach);
    const x = (value) => width / 2 + (value - middle[0]) * scale;
    const y = (value) => height / 2 - (value - middle[1]) * scale;
    for (const { at, prompted } of CENTRES) {
      const name = prompted ? "group named" : "group";
      drawing.append(make("circle", { cx: x(at[0]), cy: y(at[1]), r: 1.6 * SPREAD * scale, class: name }));
    }
    for (let i = 0; i < reference.length; i += 2) {
      const points = paths.map((state) => `${x(state[i]).toFixed(1)},${y(state[i + 1]).toFixed(1)}`).join(" ");
      drawing.append(make("polyline", { points, class: "path" }));
    }
    for (let i = 0; i < reference.length; i += 2) {
      const [[ax, ay], [bx, by]] = [
        [x(present[i]), y(present[i + 1])],
        [x(reference[i]), y(reference[i + 1])],
      ];
      drawing.append(line(ax, ay, bx, by, "off"));
      drawing.append(make("circle", { cx: bx, cy: by, r: 5.5, class: "own" }));
      drawing.append(make("circle", { cx: ax, cy: ay, r: 3, fill: "var(--accent)" }));
    }
  }

  /** An error as a reader wants it. */
  function formatError(error) {
    if (error < 1e-9) return translated("exact");
    const percent = error * 100;
    if (percent < 0.01) return translated("under 0.01 %");
    return `${percent.toFixed(percent < 1 ? 2 : percent < 10 ? 1 : 0)}\u00a0%`;
  }

  function formatSeconds(seconds) {
    const time = seconds.toFixed(seconds < 1 ? 2 : seconds < 100 ? 1 : 0);
    return translated("{time} s", { time }).replace(" ", "\u00a0");
  }

  Object.assign(CHORDS, { drawError, drawPlane, drawSchedule, drawTimeline, formatError, formatSeconds });
})();
