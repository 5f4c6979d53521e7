"use strict";
// Four channels of values and an outlier on the grid of a few bits. Scales and products are rounded to float32, as the project's tensors are.

const CHANNELS = [
  [0.86, -0.99, 0.18, -0.24, -0.19, -0.09, -0.85, -0.1, -0.36, 0.99, 0.09, -0.15, -0.12, -0.28, -0.44, -0.16],
  [0.2, -0.1, 0.4, -0.08, 0.01, 0.65, 0.23, -0.21, -0.08, 0.23, 0.81, -0.11, -0.1, 0.42, -0.37, -0.12],
  [0, 0.24, 0.04, 0.28, -0.99, 0.43, -0.4, -0.7, 0.12, 0.29, -0.19, -0.45, 0.01, -0.02, 0.59, 0.31],  // the first is the outlier
  [0.08, 0.47, -0.09, -0.39, 0.25, 0.24, -0.09, -0.33, 0.1, -0.99, 0.29, 0.21, -0.69, 0.03, -0.4, 0.32]].map(row => row.map(Math.fround));
const OUTLIER_ROW = 2;
const OUTLIER = { x: 6, y: 0 };

function roundHalfEven(value) {  // Math.round rounds halves up
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

function chooseQparams(values, bits) {
  const low = Math.min(0, ...values), high = Math.max(0, ...values), qMin = -(2 ** (bits - 1));
  const step = high > low ? Math.max((high - low) / (2 ** bits - 1), 2 ** -126) : 1;  // the least normal float32
  return { scale: Math.fround(step), zeroPoint: qMin - roundHalfEven(low / step) };
}

function quantizeValue(value, { scale, zeroPoint }, bits) {
  const q = roundHalfEven(Math.fround(value / scale)) + zeroPoint;
  return Math.min(2 ** (bits - 1) - 1, Math.max(-(2 ** (bits - 1)), q));
}

function sqnr(values, rounded) {  // in dB
  const power = values.reduce((sum, v) => sum + v * v, 0), noise = values.reduce((sum, v, i) => sum + (v - rounded[i]) ** 2, 0);
  return 10 * Math.log10(power / noise);
}

// The grid and the rounded values of each channel; SQNR and error of each and of all, without the outlier's.
function onGrid(outlier, bits, perChannel) {
  const rows = CHANNELS.map((row, c) => c === OUTLIER_ROW ? [Math.fround(outlier), ...row.slice(1)] : row);
  const channels = rows.map((values, c) => {
    const qparams = chooseQparams(perChannel ? values : rows.flat(), bits), { scale, zeroPoint } = qparams;
    const rounded = values.map(v => Math.fround((quantizeValue(v, qparams, bits) - zeroPoint) * scale));
    const first = c === OUTLIER_ROW ? 1 : 0;
    return { ...qparams, values, rounded, sqnr: sqnr(values.slice(first), rounded.slice(first)), first };
  });
  const [values, rounded] = ["values", "rounded"].map(name => channels.flatMap(channel => channel[name].slice(channel.first)));
  const noise = values.reduce((sum, v, i) => sum + (v - rounded[i]) ** 2, 0);
  return { channels, sqnr: sqnr(values, rounded), error: Math.sqrt(noise / values.length) };
}

function gridLines({ scale: step, zeroPoint }, bits, x, top, bottom) {  // those outside the drawing are cut off
  const integers = span(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2 ** bits);
  return integers.map(q => x((q - zeroPoint) * step)).map(at => line(at, top, at, bottom, "axis"));
}

function drawGrid(figure, svg, width) {
  const slider = control(figure, "bits"), bits = Number(slider.value);
  const perChannel = !control(figure, "grid").checked;
  const now = onGrid(OUTLIER.x, bits, perChannel), other = onGrid(OUTLIER.x, bits, !perChannel);
  const all = scale(-8.6, 8.6, 8, width - 8), near = scale(-1.25, 1.25, 8, width - 8), top = 132, step = 74;
  svg.setAttribute("height", top + step * CHANNELS.length + 4);
  svg.querySelector(".drawn").replaceChildren(
    text(8, 16, perChannel ? "all values, and the grid of channel 3" : "all values, and their one grid", "soft", "start"),
    ...gridLines(now.channels[OUTLIER_ROW], bits, all, 34, 66), line(8, 50, width - 8, 50, "faint"),
    ...now.channels.flatMap(({ values, first }) => values.slice(first).map(v => shape("circle", { cx: all(v), cy: 50, r: 3, class: "fill1" }))),
    ...[-8, -4, 0, 4, 8].map(v => text(all(v), 86, signed(v), "soft")),
    text(8, 112, "the same, from −1.25 to 1.25", "soft", "start"),
    ...now.channels.flatMap((channel, c) => {
      const y = top + step * c, [from, to] = [y + 12, y + 46];
      return [
        text(8, y + 2, `channel ${c + 1}: step ${channel.scale.toFixed(3)}, SQNR ${channel.sqnr.toFixed(1)} dB`, "strong halo", "start"),
        ...gridLines(channel, bits, near, to - 10, to + 6),
        ...channel.values.flatMap((v, i) => [line(near(v), from, near(channel.rounded[i]), to, "axis"),
          shape("circle", { cx: near(v), cy: from, r: 3.5, class: "fill1" }),
          shape("circle", { cx: near(channel.rounded[i]), cy: to, r: 4.5, class: "fill2" })])];
    }));
  const places = new Set(now.channels.flatMap(({ rounded, first }) => rounded.slice(first))).size;
  slider.setAttribute("aria-valuetext", `${bits} bits`);
  place(figure, "outlier", OUTLIER, all, scale(-1, 1, 70, 30), signed(OUTLIER.x));
  say(figure, `${bits} bits ${perChannel ? "per channel" : "per tensor"}, outlier ${signed(OUTLIER.x)}: the other 63 values share ${places} places; ` +
    `error ${now.error.toFixed(4)} (root mean square), SQNR ${now.sqnr.toFixed(1)} dB. ` +
    `${perChannel ? "Per tensor" : "Per channel"} it is ${other.sqnr.toFixed(1)} dB.`);
}

drag("quantization-grid", "outlier", OUTLIER, { x: [-8, 8], y: [0, 0], step: 0.1 });
play("quantization-grid", drawGrid);
