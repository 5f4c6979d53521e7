"use strict";
// The noise level and the exact denoiser of a mixture of three Gaussians on a line.

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

play("exact-denoiser", drawDenoiser);
