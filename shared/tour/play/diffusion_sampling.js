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

// Steps and guidance on three labelled Gaussians in the plane, whose denoiser is exact as well.

const LABELS = { names: ["A", "B", "C"], means: [[-2.2, -1.2], [2.2, -1.2], [0, 1.9]], deviation: 0.7, asked: 2 };
const NOISIEST = 8, CLEANEST = 0.02;

const mix = (a, p, b, q) => [a * p[0] + b * q[0], a * p[1] + b * q[1]];  // a·p + b·q of two points

// E[x0 | x0 + sigma·n = x] of equally likely labels: as all deviations are equal, it is that of one Gaussian at the weighted mean.
function denoiseLabels(x, sigma, labels) {
  const variance = LABELS.deviation ** 2, total = variance + sigma ** 2, means = labels.map(k => LABELS.means[k]);
  const shares = softmax(means.map(mean => -((x[0] - mean[0]) ** 2 + (x[1] - mean[1]) ** 2) / (2 * total)));
  const mean = means.reduce((sum, m, k) => mix(1, sum, shares[k], m), [0, 0]);
  return mix(1 - variance / total, mean, variance / total, x);
}

function denoiseGuided(x, sigma, w) {
  return mix(1 - w, denoiseLabels(x, sigma, [0, 1, 2]), w, denoiseLabels(x, sigma, [LABELS.asked]));
}

// The states from noise to data: Euler's straight steps, or Heun's with the mean of the slopes at both ends.
function trajectory(sampler, noise, steps, w) {
  const sigmas = karrasSigmas(steps, CLEANEST, NOISIEST), states = [mix(sigmas[0], noise, 0, noise)];
  const slopeAt = (x, sigma) => mix(1 / sigma, x, -1 / sigma, denoiseGuided(x, sigma, w));
  for (let i = 0; i < steps; i++) {
    const x = states[i], h = sigmas[i + 1] - sigmas[i];
    let slope = slopeAt(x, sigmas[i]);
    if (sampler === "heun" && sigmas[i + 1] > 0) slope = mix(0.5, slope, 0.5, slopeAt(mix(1, x, h, slope), sigmas[i + 1]));
    states.push(mix(1, x, h, slope));
  }
  return states;
}

// Standard normal points, the same on every page: mulberry32 and the Box-Muller transform.
function normalPoints(count, seed) {
  const uniform = () => {
    seed = seed + 0x6d2b79f5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
  return Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

const CLOUD_NOISE = normalPoints(200, 1), SHOWN_NOISE = [-0.5, -0.4];  // the latter starts on the side of A

// The mean of points, and their root mean square distance from it along one axis.
function meanAndSpread(points) {
  const mean = points.reduce((sum, p) => mix(1, sum, 1 / points.length, p), [0, 0]);
  const squares = points.reduce((sum, p) => sum + (p[0] - mean[0]) ** 2 + (p[1] - mean[1]) ** 2, 0);
  return { mean, spread: Math.sqrt(squares / points.length / 2) };
}

function drawCloud(figure, svg, width) {
  const [steps, w] = ["steps", "guidance"].map(name => Number(control(figure, name).value)), sampler = control(figure, "sampler").value;
  const height = Math.min(420, width), unit = height / 9, x = v => width / 2 + v * unit, y = v => height - (v + 4.1) * unit;
  const cloud = CLOUD_NOISE.map(noise => trajectory(sampler, noise, steps, w).at(-1)), shown = trajectory(sampler, SHOWN_NOISE, steps, w);
  const { mean, spread } = meanAndSpread(cloud), target = LABELS.means[LABELS.asked];
  const dot = ([u, v], r, look) => shape("circle", { cx: x(u).toFixed(1), cy: y(v).toFixed(1), r, class: look });
  svg.setAttribute("height", height);
  svg.replaceChildren(
    ...LABELS.means.flatMap((m, k) => [1, 2].map(n => dot(m, n * LABELS.deviation * unit, k === LABELS.asked ? "token line2" : "token soft"))),
    ...cloud.map(p => dot(p, 2.5, "fill1")),
    path(shown.map(([u, v]) => [x(u), y(v)]), "line-ink"), ...shown.map(p => dot(p, 3, "fill-ink")),
    text(x(shown[0][0]) + 9, y(shown[0][1]) + 5, "noise", "halo", "start"),
    line(x(target[0]), y(target[1]), x(mean[0]), y(mean[1]), "thick line2"), dot(mean, 6, "fill2"),
    ...LABELS.means.map((m, k) => text(x(m[0]), y(m[1]) + 5, LABELS.names[k], "strong halo")));
  control(figure, "steps").setAttribute("aria-valuetext", `${steps} steps`);
  control(figure, "guidance").setAttribute("aria-valuetext", `guidance ${w}`);
  const outside = cloud.filter(([u, v]) => x(u) < 0 || x(u) > width || y(v) < 0 || y(v) > height).length;
  say(figure, `${steps} step${steps > 1 ? "s" : ""}, w = ${w}: the mean of 200 samples (the large point) is ` +
    `${Math.hypot(mean[0] - target[0], mean[1] - target[1]).toFixed(2)} from the mean of C. Their spread is ${spread.toFixed(2)}; that of C's data is ` +
    `${LABELS.deviation.toFixed(2)}.${outside ? ` ${outside} samples lie outside of the picture.` : ""}`);
}

play("guided-cloud", drawCloud);
