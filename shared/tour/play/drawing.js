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

// Draw a figure now, and again whenever one of its controls or the width of the page changes.
function play(id, draw) {
  const figure = document.getElementById(id);
  if (!figure) return;
  const svg = figure.querySelector("svg"), redraw = () => draw(figure, svg, svg.clientWidth || 600);
  figure.addEventListener("input", redraw);
  addEventListener("resize", redraw);
  redraw();
}
