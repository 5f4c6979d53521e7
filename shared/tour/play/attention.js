"use strict";
// One query among six keys in the plane.

const KEYS = [[1.1, 0.7], [0.3, 1.4], [-0.9, 1.1], [-1.4, -0.3], [-0.4, -1.3], [0.9, -1]];  // their values, too
const POSITION = 4;  // of the query, counted from 1
const QUERY = { x: 1.7, y: 0.5 };

// Weights, output and entropy of a head of width d. (x, y) stands for the d numbers (x, y, 0, …, 0)·d^¼, so a raw score is √d times the plane's.
function attendInPlane([x, y], { width, scaled, causal }) {
  const divisor = scaled ? Math.sqrt(width) : 1;
  const scores = KEYS.map(([keyX, keyY], j) =>
    causal && j >= POSITION ? -Infinity : Math.sqrt(width) * (x * keyX + y * keyY) / divisor);
  const weights = softmax(scores);
  const output = [0, 1].map(axis => weights.reduce((sum, weight, j) => sum + weight * KEYS[j][axis], 0));
  return { weights, output, entropy: entropyBits(weights) };
}

function drawWeights(rows, { left, right, top }) {  // of each row the weight as chosen, and with the other setting of 1/√d
  const x = scale(0, 1, left + 46, right - 44), step = 31;
  return [
    ...rows.flatMap(({ weight, other, hidden }, j) => {
      const y = top + step * j;
      return [
        text(left, y + 13, `key ${j + 1}`, hidden ? "soft" : "", "start"),
        shape("rect", { x: x(0), y, width: x(weight) - x(0), height: 17, rx: 2, class: "fill1" }),
        hidden ? "" : path([[x(0), y - 3], [x(other), y - 3], [x(other), y + 20], [x(0), y + 20]], "line2"),
        text(right, y + 13, hidden ? "hidden" : weight.toFixed(3), hidden ? "soft" : "", "end")];
    }),
    line(x(0), top - 6, x(0), top + step * rows.length - 6, "axis")];
}

function drawAttention(figure, svg, width) {
  const slider = control(figure, "width"), d = 2 ** slider.value;
  const scaled = control(figure, "scaled").checked, causal = control(figure, "causal").checked;
  const [now, other] = [scaled, !scaled].map(on => attendInPlane([QUERY.x, QUERY.y], { width: d, scaled: on, causal }));
  const wide = width > 620, side = Math.min(width, 400), height = wide ? side : side + 232;
  const x = scale(-2.2, 2.2, 0, side), y = scale(-2.2, 2.2, side, 0), at = ([a, b]) => [x(a), y(b)];
  const panel = wide ? { left: side + 40, right: width - 8, top: 110 } : { left: 4, right: width - 4, top: side + 46 };
  const [outX, outY] = at(now.output), names = { true: "divided by √d", false: "not divided" };
  svg.setAttribute("height", height);
  svg.querySelector(".drawn").replaceChildren(
    line(x(-2.2), y(0), x(2.2), y(0), "faint"), line(x(0), y(-2.2), x(0), y(2.2), "faint"),
    ...KEYS.map((key, j) => shape("line", { x1: x(QUERY.x), y1: y(QUERY.y), x2: at(key)[0], y2: at(key)[1],
      class: "line1", style: `stroke-width: ${(14 * now.weights[j]).toFixed(2)}px` })),
    ...KEYS.flatMap((key, j) => {
      const [cx, cy] = at(key), hidden = causal && j >= POSITION, out = 17 / Math.hypot(...key);
      return [shape("circle", { cx, cy, r: 6, class: hidden ? "mark soft" : "fill1" }),
        text(cx + out * key[0], cy - out * key[1] + 4, j + 1, hidden ? "soft halo" : "strong halo")];
    }),
    path([[outX, outY - 11], [outX + 11, outY], [outX, outY + 11], [outX - 11, outY], [outX, outY - 11]], "thick line2"),
    text(x(QUERY.x), y(QUERY.y) + 25, "query", "strong halo"), text(outX, outY + 27, "output", "strong halo"),
    text(panel.left, panel.top - 30, "weights", "strong", "start"),
    text(panel.left, panel.top - 13, `filled: ${names[scaled]}; outline: ${names[!scaled]}, d = ${d}`, "soft", "start"),
    ...drawWeights(now.weights.map((weight, j) => ({ weight, other: other.weights[j], hidden: causal && j >= POSITION })), panel));
  const [largest, without] = [now, other].map(({ weights }) => Math.max(...weights).toFixed(3));
  slider.setAttribute("aria-valuetext", `width ${d}`);
  place(figure, "query", QUERY, x, y, `x ${signed(QUERY.x)}, y ${signed(QUERY.y)}`);
  say(figure, `d = ${d}, scores ${names[scaled]}: the largest weight is ${largest}, on key ${now.weights.indexOf(Math.max(...now.weights)) + 1}; ` +
    `entropy ${now.entropy.toFixed(2)} of at most ${Math.log2(causal ? POSITION : KEYS.length).toFixed(2)} bits; ` +
    `output (${signed(now.output[0], 3)}, ${signed(now.output[1], 3)}). ` +
    `${scaled ? "Not divided" : "Divided by √d"}: ${without} and ${other.entropy.toFixed(2)} bits.`);
}

drag("attention-plane", "query", QUERY, { x: [-2, 2], y: [-2, 2], step: 0.05 });
play("attention-plane", drawAttention);
