"use strict";
// A latent among the codes of a plane: its cell, its code, and who pulls whom.

const CODES = [[-1.4, 1.1], [0.1, 1.5], [1.5, 0.9], [-0.5, 0], [1.2, -0.6], [-1.4, -1.2], [0.2, -1.5]];
const IMAGE = [1, -1.6];  // what the decoder, which changes nothing here, should say
const LATENT = { x: 0.2, y: 0.5 }, EDGE = 2.1;

function nearestCode([x, y]) {
  const distances = CODES.map(([a, b]) => (x - a) ** 2 + (y - b) ** 2);
  return distances.indexOf(Math.min(...distances));
}

// The corners of the part of the plane, a square, that is nearest to a code: cut by the line halfway to each other code.
function cellOf(k) {
  const [a, b] = CODES[k], square = [[-EDGE, -EDGE], [EDGE, -EDGE], [EDGE, EDGE], [-EDGE, EDGE]];
  return CODES.filter((_, j) => j !== k).reduce((corners, [c, d]) => {
    const side = ([x, y]) => (x - (a + c) / 2) * (c - a) + (y - (b + d) / 2) * (d - b);  // below 0: nearer to code k
    return corners.flatMap((from, i) => {
      const to = corners[(i + 1) % corners.length], [s, t] = [side(from), side(to)];
      const cut = s * t < 0 ? [from.map((v, axis) => v + s / (s - t) * (to[axis] - v))] : [];
      return [...(s <= 0 ? [from] : []), ...cut];
    });
  }, square);
}

// The three losses and their gradients. Means over two numbers: the 2 of the square and the 1/2 cancel.
function vqLosses(z, beta) {
  const k = nearestCode(z), code = CODES[k], square = (p, q) => ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / 2;
  const decoder = code.map((v, axis) => v - IMAGE[axis]), codebook = code.map((v, axis) => v - z[axis]);
  return { k, reconstruction: square(code, IMAGE), codebook: square(code, z), commitment: beta * square(z, code),
    gradients: { decoder, straightThrough: decoder, codebook, commitment: codebook.map(v => -beta * v) } };
}

function pullArrow([x1, y1], [x2, y2], look) {
  const length = Math.hypot(x2 - x1, y2 - y1), [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
  if (length < 4) return [];
  const corner = side => [x2 - 9 * dx + side * 5 * dy, y2 - 9 * dy - side * 5 * dx];
  return [line(x1, y1, x2, y2, `thick ${look}`), path([corner(1), [x2, y2], corner(-1)], `thick ${look.replace("dash", "")}`)];
}

function drawCells(figure, svg, width) {
  const slider = control(figure, "beta"), beta = Number(slider.value), z = [LATENT.x, LATENT.y];
  const { k, gradients, ...losses } = vqLosses(z, beta), code = CODES[k];
  const wide = width > 620, side = Math.min(width, 400), panel = wide ? [side + 36, 90] : [4, side + 34];
  const x = scale(-EDGE, EDGE, 0, side), y = scale(-EDGE, EDGE, side, 0), at = ([a, b]) => [x(a), y(b)];
  const against = (from, gradient) => [at(from), at(from.map((v, axis) => v - gradient[axis]))];
  const pulls = [
    ["dash line2", "decoder: from the code to x", against(code, gradients.decoder), gradients.decoder],
    ["line2", "straight through: the same, at z", against(z, gradients.straightThrough), gradients.straightThrough],
    ["line1", "codebook: the code to z", against(code, gradients.codebook), gradients.codebook],
    ["line-ink", `commitment, β = ${beta}: z to the code`, against(z, gradients.commitment), gradients.commitment]];
  const vector = gradient => `(${gradient.map(v => (0 - v).toFixed(2).replace("-", "−")).join(", ")})`;
  svg.setAttribute("height", wide ? side : side + 222);
  svg.querySelector(".drawn").replaceChildren(
    path(cellOf(k).map(at), "area1"), ...CODES.map((_, j) => path([...cellOf(j), cellOf(j)[0]].map(at), "axis")),
    shape("clipPath", { id: "vq-plane" }, shape("rect", { width: side, height: side })),
    shape("g", { "clip-path": "url(#vq-plane)" }, ...pulls.flatMap(([look, , [from, to]]) => pullArrow(from, to, look))),
    ...CODES.flatMap((point, j) => [shape("circle", { cx: at(point)[0], cy: at(point)[1], r: j === k ? 6 : 4, class: "fill1" }),
      text(x(point[0]), y(point[1]) - 11, j === k ? `e${j + 1}` : j + 1, j === k ? "strong" : "soft")]),
    shape("rect", { x: x(IMAGE[0]) - 5, y: y(IMAGE[1]) - 5, width: 10, height: 10, class: "fill2" }),
    text(x(IMAGE[0]) + 15, y(IMAGE[1]) + 4, "x", "strong halo"), text(x(z[0]), y(z[1]) - 14, "z", "strong halo"),
    text(panel[0], panel[1] - 14, "who pulls whom", "strong", "start"),
    ...pulls.flatMap(([look, name, , gradient], i) => {
      const [left, top] = [panel[0], panel[1] + 16 + 46 * i];
      return [...pullArrow([left, top], [left + 40, top], look), text(left + 52, top - 2, name, "", "start"),
        text(left + 52, top + 15, vector(gradient), "strong", "start")];
    }));
  slider.setAttribute("aria-valuetext", `beta ${beta}`);
  place(figure, "latent", LATENT, x, y, `x ${signed(LATENT.x)}, y ${signed(LATENT.y)}, code ${k + 1}`);
  say(figure, `z = (${signed(z[0])}, ${signed(z[1])}) becomes code ${k + 1}. Losses: reconstruction ${losses.reconstruction.toFixed(3)}, ` +
    `codebook ${losses.codebook.toFixed(3)}, β · commitment ${losses.commitment.toFixed(3)}. All in all z is pulled by ` +
    `${vector(gradients.straightThrough.map((v, axis) => v + gradients.commitment[axis]))}.`);
}

drag("vq-cells", "latent", LATENT, { x: [-2, 2], y: [-2, 2], step: 0.05 });
play("vq-cells", drawCells);
