"use strict";
// The temperature of a softmax.

const LOGITS = [2.0, 1.4, 0.5, -0.5, -2.0];

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

play("softmax-temperature", drawSoftmax);
