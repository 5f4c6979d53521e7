"use strict";
// Three interactive figures of the tour; the fourth, a dream to play in, is in dream_figure.js. First the mathematics, as pure functions that the tests compare with the
// projects' own Python; then what draws them. Colours come from the page's style sheet, so light and dark both fit.

// --- mathematics ---------------------------------------------------------------------------------------------

const LOGITS = [2.0, 1.4, 0.5, -0.5, -2.0];

function softmax(logits, temperature = 1) {
  const largest = Math.max(...logits);
  const powers = logits.map(logit => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map(power => power / sum);
}

function entropyBits(probabilities) {
  return probabilities.reduce((sum, p) => (p > 0 ? sum - p * Math.log2(p) : sum), 0);
}

const MIXTURE = { weights: [0.25, 0.45, 0.3], means: [-2.4, 0.2, 2.6], deviations: [0.3, 0.4, 0.2] };
const MEAN = MIXTURE.means.reduce((sum, mean, k) => sum + MIXTURE.weights[k] * mean, 0);

// Log of weight_k N(x; mean_k, deviation_k² + sigma²) for each component: noise adds its variance to every one.
function logJoint(x, sigma) {
  return MIXTURE.means.map((mean, k) => {
    const variance = MIXTURE.deviations[k] ** 2 + sigma ** 2;
    return Math.log(MIXTURE.weights[k]) - 0.5 * ((x - mean) ** 2 / variance + Math.log(2 * Math.PI * variance));
  });
}

function density(x, sigma) {
  return logJoint(x, sigma).reduce((sum, log) => sum + Math.exp(log), 0);
}

function responsibilities(x, sigma) {
  return softmax(logJoint(x, sigma));
}

// E[x0 | x0 + sigma·n = x]: each component pulls x towards its mean, weighted by how likely it is the source.
function denoise(x, sigma) {
  return responsibilities(x, sigma).reduce((sum, share, k) => {
    const variance = MIXTURE.deviations[k] ** 2, mean = MIXTURE.means[k];
    return sum + share * (mean + variance / (variance + sigma ** 2) * (x - mean));
  }, 0);
}

function attainable(intensity, gpu) {  // FLOP/s under the roof
  return Math.min(gpu.flops, intensity * gpu.bytes);
}

// --- drawing -------------------------------------------------------------------------------------------------

function shape(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const text = (x, y, words, look = "", anchor = "middle") =>
  shape("text", { x, y, class: look, "text-anchor": anchor }, words);
const line = (x1, y1, x2, y2, look) => shape("line", { x1, y1, x2, y2, class: look });
const path = (points, look) =>
  shape("path", { class: look, d: "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L") });
const scale = (low, high, from, to) => value => from + (value - low) / (high - low) * (to - from);
const span = (low, high, count) => Array.from({ length: count }, (_, i) => low + i / (count - 1) * (high - low));
const control = (figure, name) => figure.querySelector(`[name=${name}]`);
const say = (figure, words) => { figure.querySelector("output").textContent = words; };

const signed = (value, digits = 2) => Number(value.toPrecision(digits)).toString().replace("-", "−");

function unit(value, name) {  // 8.6e9, "B" -> 8.6 GB; 0.0071, "s" -> 7.1 ms
  const power = Math.max(-2, Math.min(5, Math.floor(Math.log10(value) / 3 + 1e-9)));
  return `${Number((value / 1000 ** power).toPrecision(3))} ${["µ", "m", "", "k", "M", "G", "T", "P"][power + 2]}${name}`;
}

function drawSoftmax(figure, svg, width) {
  const slider = control(figure, "temperature"), temperature = 10 ** slider.value;
  const probabilities = softmax(LOGITS, temperature), height = 250, floor = 205;
  const y = scale(0, 1, floor, 24), x = scale(-0.5, LOGITS.length - 0.5, 30, width - 8);
  const bar = Math.min(90, width / LOGITS.length * 0.62), even = 1 / LOGITS.length;
  svg.setAttribute("height", height);
  svg.replaceChildren(
    ...[0.5, 1].flatMap(p => [line(30, y(p), width - 8, y(p), "faint"), text(26, y(p) + 4, p, "soft", "end")]),
    ...probabilities.map((p, i) => shape("rect",
      { x: x(i) - bar / 2, y: y(p), width: bar, height: floor - y(p), rx: 2, class: "fill1" })),
    line(30, floor, width - 8, floor, "axis"), line(30, y(even), width - 8, y(even), "dash soft"),
    text(width - 8, y(even) - 5, `all alike: ${even}`, "soft", "end"),
    ...probabilities.map((p, i) => text(x(i), y(p) - 6, p < 0.0005 ? "0.000" : p.toFixed(3), "halo")),
    ...LOGITS.map((logit, i) => text(x(i), floor + 18, signed(logit))),
    text(width / 2, floor + 38, "logit of each class", "soft"));
  const shown = Number(temperature.toPrecision(2));
  const regime = temperature < 0.1 ? ": the argmax alone is left" : temperature > 30 ? ": nearly uniform" : "";
  slider.setAttribute("aria-valuetext", `temperature ${shown}`);
  say(figure, `T = ${shown}${regime}. Largest probability ${Math.max(...probabilities).toFixed(3)}, entropy ` +
    `${entropyBits(probabilities).toFixed(2)} of at most ${Math.log2(LOGITS.length).toFixed(2)} bits.`);
}

function drawDenoiser(figure, svg, width) {
  const slider = control(figure, "sigma"), sigma = 10 ** slider.value, noise = Number(control(figure, "noise").value);
  const clean = MIXTURE.means[2], state = clean + sigma * noise, answer = denoise(state, sigma);
  const reach = Math.hypot(4, 3.2 * sigma), x = scale(-reach, reach, 10, width - 10);
  const grid = span(-reach, reach, 401), highest = Math.max(...grid.map(v => density(v, sigma)));
  const peak = Math.max(...grid.map(v => density(v, 1e-9)));  // the clean data, for comparison
  const top = 165, height = 415, low = 225, high = 385, y = scale(-4, 4, high, low);
  const tall = scale(0, highest, top, 30), ghost = scale(0, peak, top, 30), curve = grid.map(v => [x(v), tall(density(v, sigma))]);
  const direction = Math.sign(answer - state), tip = x(answer), tail = x(state), step = 10 ** Math.floor(Math.log10(reach / 2));
  const ticks = span(-9, 9, 19).map(k => k * step * (reach / step > 9 ? 5 : reach / step > 4.5 ? 2 : 1)).filter(v => Math.abs(v) < reach * 0.97);
  svg.setAttribute("height", height);
  svg.replaceChildren(
    text(10, 16, "density: data (thin), data + noise", "soft", "start"),
    path([[x(-reach), top], ...curve, [x(reach), top]], "area1"), path(curve, "line1"),
    path(grid.map(v => [x(v), ghost(density(v, 1e-9))]), "line soft"), line(10, top, width - 10, top, "axis"),
    line(tail, top, tail, high, "dash soft"), line(tip, top, tip, y(answer), "dash line2"),
    ...(Math.abs(tip - tail) > 3 ? [line(tail, top, tip, top, "thick line2"),
      path([[tip - 9 * direction, top - 5], [tip, top], [tip - 9 * direction, top + 5]], "thick line2")] : []),
    shape("circle", { cx: tail, cy: top, r: 6, class: "fill-ink" }), text(tail, top + 22, "x", "strong"), text(tip, top - 10, "D", "strong halo"),
    ...ticks.flatMap(v => [line(x(v), high, x(v), high + 4, "axis"), text(x(v), high + 18, signed(v), "soft")]),
    text(10, low - 4, "the denoiser's answer for every x", "soft", "start"),
    line(10, high, width - 10, high, "axis"), line(10, y(MEAN), width - 10, y(MEAN), "dash soft"), text(12, y(MEAN) - 6, "mean", "soft halo", "start"),
    line(x(-4), y(-4), x(4), y(4), "dash soft"), text(x(3.3), y(3.3) - 8, "x itself", "soft halo", "end"), path(grid.map(v => [x(v), y(denoise(v, sigma))]), "thick line2"),
    shape("circle", { cx: tail, cy: y(answer), r: 6, class: "fill2" }));
  const shown = Number(sigma.toPrecision(2));
  const shares = responsibilities(state, sigma).map(share => `${Math.round(100 * share)}\u00a0%`).join(", ");
  slider.setAttribute("aria-valuetext", `noise level ${shown}`);
  say(figure, `σ = ${shown}: x = ${clean} + ${shown} · (${signed(noise)}) = ${signed(state, 3)}, and D = ${signed(answer, 3)}. ` +
    `x came from the left, middle or right mode with ${shares}. The mean of all data is ${signed(MEAN)}.`);
}

function drawRoofline(figure, svg, width) {
  const data = JSON.parse(document.getElementById("roofline-data").textContent);
  const slider = control(figure, "size"), n = data.size * 2 ** slider.value, flop = 2 * n ** 3;
  const gpu = data.gpus[control(figure, "gpu").value], bend = gpu.flops / gpu.bytes;
  const measured = gpu.speeds && n === gpu.size, height = 330, left = 44, floor = height - 40;
  const log = (low, high, from, to) => { const s = scale(Math.log10(low), Math.log10(high), from, to); return v => s(Math.log10(v)); };
  const x = log(0.03, 3000, left, width - 10), y = log(0.05e12, 150e12, floor, 14);
  const kernels = data.kernels.map((kernel, i) => ({ ...kernel, number: i + 1,
    speed: measured ? gpu.speeds[kernel.name] : attainable(kernel.intensity, gpu) })).filter(kernel => kernel.speed);
  kernels.push({ name: "a and b loaded once", number: "◆", intensity: n / 4, speed: attainable(n / 4, gpu) });
  const points = Map.groupBy ? Map.groupBy(kernels, k => `${k.intensity} ${k.speed}`) : new Map(kernels.map(k => [k, [k]]));
  const describe = k => `${k.name}: ${unit(flop, "FLOP")}, loads move ${unit(flop / k.intensity, "B")}: ` +
    `${Number(k.intensity.toPrecision(3))} FLOP per byte, ${k.intensity < bend ? "left of the bend (memory-bound)" : "right of the bend (compute-bound)"}; ` +
    `${measured && k.number !== "◆" ? "measured" : "attainable, not measured"}: ${unit(k.speed, "FLOP/s")}, ${unit(flop / k.speed, "s")}`;
  const rows = [...figure.querySelectorAll("tbody tr")];
  const choose = group => {
    rows.forEach((row, i) => row.classList.toggle("chosen", group.some(k => k.number === i + 1)));
    say(figure, group.map(describe).join(" — "));
  };
  svg.setAttribute("height", height);
  svg.replaceChildren(
    ...[0.1, 1, 10, 100].flatMap(v => [line(left, y(v * 1e12), width - 10, y(v * 1e12), "faint"), text(left - 6, y(v * 1e12) + 4, v, "soft", "end")]),
    ...[0.1, 1, 10, 100, 1000].flatMap(v => [line(x(v), 14, x(v), floor, "faint"), text(x(v), floor + 17, v, "soft")]),
    text(width / 2, height - 6, "FLOP per byte that loads move", "soft"), text(left + 4, 26, "TFLOP/s", "soft", "start"),
    path([[x(0.03), y(0.03 * gpu.bytes)], [x(bend), y(gpu.flops)], [x(3000), y(gpu.flops)]], "thick line-ink"),
    line(x(bend), y(gpu.flops), x(bend), floor, "dash soft"), text(x(bend) + 5, floor - 8, `bend: ${bend.toFixed(1)}`, "soft", "start"),
    ...[...points.values()].map((group, i) => {
      const [first] = group, half = group.length > 1 ? 18 : 12, side = i % 2 ? 28 : -28;  // above, below, above…
      const number = group.length > 1 ? `${first.number}–${group.at(-1).number}` : first.number;
      const at = [x(first.intensity), y(first.speed)];
      const point = shape("g", { class: "point", tabindex: 0, role: "button", "aria-label": group.map(describe).join("; ") },
        line(at[0], at[1], at[0], at[1] + side, "axis"), shape("circle", { cx: at[0], cy: at[1], r: 4, class: "fill1" }),
        shape("rect", { x: at[0] - half, y: at[1] + side - 12, width: 2 * half, height: 24, rx: 12 }),
        text(at[0], at[1] + side + 4, number));
      for (const event of ["pointerenter", "focus", "click"]) point.addEventListener(event, () => choose(group));
      return point;
    }));
  rows.forEach((row, i) => {
    const kernel = kernels.find(k => k.number === i + 1);
    const cells = kernel ? [unit(flop / kernel.intensity, "B"), unit(kernel.speed, "FLOP/s"), unit(flop / kernel.speed, "s")] : ["", "", ""];
    cells.forEach((cell, j) => { row.cells[j + 2].textContent = cell; });
  });
  figure.querySelector("thead th:nth-child(4)").textContent = measured ? "measured" : "attainable, not measured";
  slider.setAttribute("aria-valuetext", `${n} by ${n}`);
  say(figure, `${n} × ${n}: ${unit(flop, "FLOP")}. ${gpu.name}: ${unit(gpu.flops, "FLOP/s")}, ${unit(gpu.bytes, "B/s")} ` +
    `(${gpu.source}). Point at a kernel, tap it, or reach it with Tab.`);
}

// --- the page ------------------------------------------------------------------------------------------------

const DRAWINGS = { "softmax-temperature": drawSoftmax, "exact-denoiser": drawDenoiser, "matmul-roofline": drawRoofline };
for (const [id, draw] of Object.entries(DRAWINGS)) {
  const figure = document.getElementById(id);
  if (!figure) continue;
  const svg = figure.querySelector("svg"), redraw = () => draw(figure, svg, svg.clientWidth || 600);
  figure.addEventListener("input", redraw);
  addEventListener("resize", redraw);
  redraw();
}
