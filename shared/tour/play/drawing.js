"use strict";
// What the interactive figures of the tour share. Each figure has a file with its mathematics, as pure functions that the tests compare with the
// project's own Python, and then what draws it. Colours come from the page's style sheet, so light and dark both fit.

function softmax(logits, temperature = 1) {
  const largest = Math.max(...logits);
  const powers = logits.map(logit => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map(power => power / sum);
}

function entropyBits(probabilities) {
  return probabilities.reduce((sum, p) => (p > 0 ? sum - p * Math.log2(p) : sum), 0);
}

// Noise levels of diffusion: n that fall from high to low, evenly spaced in σ^(1/ρ), then 0.
function karrasSigmas(nSteps, low = 0.002, high = 5, rho = 7) {
  const from = high ** (1 / rho), to = low ** (1 / rho);
  const sigmas = Array.from({ length: nSteps }, (_, i) => (from + (to - from) * i / Math.max(1, nSteps - 1)) ** rho);
  return [...sigmas, 0];
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
const scale = (low, high, from, to) => Object.assign(value => from + (value - low) / (high - low) * (to - from),
  { back: pixel => low + (pixel - from) / (to - from) * (high - low) });
const span = (low, high, count) => Array.from({ length: count }, (_, i) => low + i / (count - 1) * (high - low));
const control = (figure, name) => figure.querySelector(`[name=${name}]`);
const say = (figure, words) => { figure.querySelector("output").textContent = words; };

const signed = (value, digits = 2) => Number(value.toPrecision(digits)).toString().replace("-", "−");

function unit(value, name) {  // 8.6e9, "B" -> 8.6 GB; 0.0071, "s" -> 7.1 ms
  const power = Math.max(-2, Math.min(5, Math.floor(Math.log10(value) / 3 + 1e-9)));
  return `${Number((value / 1000 ** power).toPrecision(3))} ${["µ", "m", "", "k", "M", "G", "T", "P"][power + 2]}${name}`;
}

// Draw a figure now, and again whenever one of its controls or the width of the page changes.
function play(id, draw) {
  const figure = document.getElementById(id);
  if (!figure) return;
  const svg = figure.querySelector("svg"), redraw = () => draw(figure, svg, svg.clientWidth || 600);
  figure.addEventListener("input", redraw);
  addEventListener("resize", redraw);
  redraw();
}

// Put a handle where `point` is, of values in the plane of the scales x and y, and say these values in words.
function place(figure, name, point, x, y, words) {
  const handle = figure.querySelector(`.handle[data-name=${name}]`);
  handle.scales = [x, y];
  handle.setAttribute("transform", `translate(${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)})`);
  handle.setAttribute("aria-valuenow", Number(point.x.toFixed(3)));
  handle.setAttribute("aria-valuetext", words);
}

// Let mouse, finger and arrow keys move a handle and with it `point`; the figure's draw function must `place` it. Call this before `play`.
// The handle stands in the markup, <g class="handle" data-name=… tabindex="0" role="slider">, beside a <g class="drawn"> for the
// rest: if the drawing replaced it, it would lose pointer and focus. `x` and `y` are [lowest, highest]; alike, that axis is fixed.
function drag(id, name, point, { x, y, step }) {
  const figure = document.getElementById(id);
  if (!figure) return;
  const handle = figure.querySelector(`.handle[data-name=${name}]`), between = (v, [low, high]) => Math.min(high, Math.max(low, v));
  const move = (toX, toY) => {
    Object.assign(point, { x: between(toX, x), y: between(toY, y) });
    figure.dispatchEvent(new Event("input"));
  };
  let grip = [0, 0];  // from the handle's middle to where it was taken, in pixels
  handle.addEventListener("pointerdown", event => {
    grip = [event.clientX - handle.scales[0](point.x), event.clientY - handle.scales[1](point.y)];
    handle.setPointerCapture(event.pointerId);
    handle.focus();
    event.preventDefault();
  });
  handle.addEventListener("pointermove", event => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    move(handle.scales[0].back(event.clientX - grip[0]), handle.scales[1].back(event.clientY - grip[1]));
  });
  handle.addEventListener("touchstart", event => event.preventDefault(), { passive: false });  // or the page scrolls: touch-action counts for a whole SVG only
  handle.addEventListener("keydown", event => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const [right, up] = x[0] === x[1] || y[0] === y[1] ? [way[0] + way[1], way[0] + way[1]] : way;
    move(point.x + right * step, point.y + up * step);
  });
}
