"use strict";
// PPO's clip: the objective of one action, and its gradient.

function clippedObjective(ratio, advantage, clip) {
  return Math.min(ratio * advantage, Math.min(Math.max(ratio, 1 - clip), 1 + clip) * advantage);
}

function isFarEnough(ratio, advantage, clip) {
  return advantage > 0 && ratio > 1 + clip || advantage < 0 && ratio < 1 - clip;
}

// The derivative of the objective to log π_new; as ρ = π_new/π_old, that of ρ itself is ρ.
function clippedGradient(ratio, advantage, clip) {
  return isFarEnough(ratio, advantage, clip) ? 0 : ratio * advantage;
}

function whyClipped(ratio, advantage, clip) {
  if (advantage === 0) return "The action was as good as expected: nothing to learn from it";
  const wish = advantage > 0 ? "more" : "less", probable = ratio === 1 ? "as probable as before" : ratio > 1 ? "more probable" : "less probable";
  const start = `The action should become ${wish} probable and is ${probable}`;
  if (isFarEnough(ratio, advantage, clip)) return `${start}, by more than ε: far enough`;
  if ((ratio - 1) * advantage < 0) return `${start}: the wrong way, so all of the gradient pulls it back`;
  return ratio === 1 ? start : `${start}, by no more than ε: it may go on`;
}

function drawCurve(box, lowest, highest, { ratio, advantage, clip }, name, value, dashed) {
  const x = scale(0, 2, box.left + 26, box.left + box.width - 6), y = scale(lowest, highest, box.top + box.height - 24, box.top + 26);
  const ratios = span(0, 2, 401), edge = advantage > 0 ? 1 + clip : 1 - clip, end = advantage > 0 ? 2 : 0;
  const parts = [ratios.filter(r => !isFarEnough(r, advantage, clip)), ratios.filter(r => isFarEnough(r, advantage, clip))];
  const flat = advantage === 0 ? [] : [
    shape("rect", { x: Math.min(x(edge), x(end)), y: y(highest), width: Math.abs(x(end) - x(edge)), height: y(lowest) - y(highest), class: "area1" }),
    text((x(edge) + x(end)) / 2, y(lowest) - 7, "far enough", "soft")];
  return [
    ...flat, text(box.left, box.top + 13, name, "strong", "start"),
    ...[-1, 0, 1].flatMap(v => [line(x(0), y(v), x(2), y(v), v ? "faint" : "axis"), text(x(0) - 6, y(v) + 4, signed(v), "soft", "end")]),
    ...[0, 0.5, 1, 1.5, 2].flatMap(v => [line(x(v), y(lowest), x(v), y(lowest) + 4, "axis"), text(x(v), y(lowest) + 18, v, "soft")]),
    line(x(1), y(lowest), x(1), y(highest), "faint"),
    ...(dashed ? [path([[x(0), y(0)], [x(2), y(2 * advantage)]], "dash soft")] : []),
    ...parts.filter(part => part.length > 1).map(part => path(part.map(r => [x(r), y(value(r, advantage, clip))]), "thick line1")),
    line(x(ratio), y(0), x(ratio), y(value(ratio, advantage, clip)), "dash line2"),
    shape("circle", { cx: x(ratio), cy: y(value(ratio, advantage, clip)), r: 6, class: "fill2" }),
  ];
}

function drawClip(figure, svg, width) {
  const [ratio, advantage, clip] = ["ratio", "advantage", "epsilon"].map(name => Number(control(figure, name).value));
  const beside = width >= 640, setting = { ratio, advantage, clip }, height = beside ? 300 : 200;
  const box = i => ({ left: beside ? i * (width / 2 + 8) : 0, top: beside ? 0 : i * (height + 8), width: beside ? width / 2 - 8 : width, height });
  svg.setAttribute("height", beside ? height : 2 * height + 8);
  svg.replaceChildren(
    ...drawCurve(box(0), -2, 2, setting, "objective over ρ", clippedObjective, true),
    ...drawCurve(box(1), -2, 2, setting, "gradient over ρ", clippedGradient, false));
  control(figure, "ratio").setAttribute("aria-valuetext", `ratio ${ratio}`);
  control(figure, "advantage").setAttribute("aria-valuetext", `advantage ${advantage}`);
  control(figure, "epsilon").setAttribute("aria-valuetext", `epsilon ${clip}`);
  const [objective, gradient] = [clippedObjective, clippedGradient].map(value => signed(value(ratio, advantage, clip), 3));
  say(figure, `ρ = ${ratio}, A = ${signed(advantage)}, ε = ${clip}: objective ${objective}, gradient ${gradient}. ${whyClipped(ratio, advantage, clip)}.`);
}

play("ppo-clip", drawClip);
