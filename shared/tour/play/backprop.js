"use strict";
// One neuron with two inputs, a tanh and a squared error: forward and backward.

const INPUTS = [1.5, -0.8], TARGET = -0.5, RATE = 0.2;

function neuron([w1, w2, b]) {
  const a = w1 * INPUTS[0] + w2 * INPUTS[1] + b, y = Math.tanh(a);
  const dy = 2 * (y - TARGET), da = dy * (1 - y * y);  // of the loss by y and by a
  return { a, y, loss: (y - TARGET) ** 2, dy, da, weights: [da * INPUTS[0], da * INPUTS[1], da], inputs: [da * w1, da * w2] };
}

function drawNeuron(figure, svg, width) {
  const sliders = ["w1", "w2", "b"].map(name => control(figure, name)), parameters = sliders.map(slider => Number(slider.value));
  const now = neuron(parameters), passed = 1 - now.y * now.y, f = value => value.toFixed(2).replace("-", "−");
  const middle = width / 2, gap = Math.min(width / 3, 240), columns = [middle - gap, middle + gap, middle];
  const [inputY, sumY, outY, lossY] = [84, 268, 358, 448], came = [...INPUTS, 1];
  const edge = (x1, y1, x2, y2, gradient) =>
    shape("line", { x1, y1, x2, y2, class: "line2", style: `stroke-width: ${(1 + 2.5 * Math.min(3, Math.abs(gradient))).toFixed(2)}px` });
  const node = (x, y, value) => [shape("circle", { cx: x, cy: y, r: 23, class: "node" }), text(x, y + 4, f(value), "strong fill1")];
  const lines = (x, y, anchor, ...pairs) => pairs.map(([words, look], j) => text(x, y + 17 * j, words, `${look} halo`, anchor));
  const product = (x, y, anchor, factor, gradient) => lines(x, y, anchor, [`${f(now.da)} × ${f(factor)}`, "fill2"], [`= ${f(gradient)}`, "fill2 strong"]);
  const parameter = (x, i) => {  // beside its edge, on the outer side; that of the bias on it
    const [share, anchor, aside] = [[0.42, "end", -8], [0.42, "start", 8], [0.28, "middle", 0]][i];
    const at = [x + share * (middle - x) + aside, inputY + share * (sumY - inputY)], name = ["w₁", "w₂", "b"][i];
    return [...lines(...at, anchor, [`${name} = ${f(parameters[i])}`, "fill1"]), ...product(at[0], at[1] + 17, anchor, came[i], now.weights[i])];
  };
  svg.setAttribute("height", lossY + 34);
  svg.replaceChildren(
    ...columns.map((x, i) => edge(x, inputY, middle, sumY, now.weights[i])),
    edge(middle, sumY, middle, outY, now.da), edge(middle, outY, middle, lossY, now.dy),
    ...columns.flatMap((x, i) => [...node(x, inputY, came[i]), text(x, 14, ["x₁", "x₂", "1"][i], "strong"), ...parameter(x, i)]),
    ...now.inputs.flatMap((gradient, i) => product(columns[i], 33, "middle", parameters[i], gradient)),
    ...node(middle, sumY, now.a), ...node(middle, outY, now.y), ...node(middle, lossY, now.loss),
    ...lines(middle - 32, sumY + 4, "end", ["a = w·x + b", "fill1"]), ...lines(middle - 32, outY + 4, "end", ["y = tanh a", "fill1"]),
    ...lines(middle - 32, lossY + 4, "end", ["L = (y − t)²", "fill1"], [`t = ${f(TARGET)}`, "soft"]),
    ...lines(middle + 14, sumY + 38, "start", ["times 1 − y²", "fill2"], [`${f(now.dy)} × ${f(passed)} = ${f(now.da)}`, "fill2 strong"]),
    ...lines(middle + 14, outY + 49, "start", [`2 (y − t) = ${f(now.dy)}`, "fill2 strong"]));
  sliders.forEach((slider, i) => slider.setAttribute("aria-valuetext", f(parameters[i])));
  say(figure, `L = ${now.loss.toFixed(4)}. Back at the sum comes ${f(now.da)}: the gradients of w₁, w₂ and b are ${now.weights.map(f).join(", ")}. ` +
    `tanh lets ${(100 * passed).toFixed(passed < 0.1 ? 1 : 0)}\u00a0% of the gradient back${passed < 0.05 ? ": it is saturated" : ""}.`);
}

function stepNeuron(figure) {
  const sliders = ["w1", "w2", "b"].map(name => control(figure, name));
  const { weights } = neuron(sliders.map(slider => Number(slider.value)));
  sliders.forEach((slider, i) => { slider.value = slider.value - RATE * weights[i]; });
  figure.dispatchEvent(new Event("input"));
}

play("neuron-gradients", drawNeuron);
document.querySelector("#neuron-gradients [name=step]")?.addEventListener("click", event => stepNeuron(event.target.closest("figure")));
