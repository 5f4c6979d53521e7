"use strict";
// The rungs of a matmul under a roof.

function attainable(intensity, gpu) {  // FLOP/s under the roof
  return Math.min(gpu.flops, intensity * gpu.bytes);
}

function drawRoofline(figure, svg, width) {
  const data = JSON.parse(document.getElementById("roofline-data").textContent);
  const slider = control(figure, "size"), n = data.size * 2 ** slider.value, flop = 2 * n ** 3;
  const gpu = data.gpus[control(figure, "gpu").value], bend = gpu.flops / gpu.bytes;
  const measured = gpu.speeds && n === gpu.size, height = 330, left = 44, floor = height - 40;
  const log = (low, high, from, to) => { const s = scale(Math.log10(low), Math.log10(high), from, to); return v => s(Math.log10(v)); };
  const x = log(0.03, 3000, left, width - 10), y = log(0.05e12, 150e12, floor, 14);
  const kernels = data.kernels.map((kernel, i) => ({ ...kernel, number: i + 1,
    speed: measured ? gpu.speeds[kernel.name] : attainable(kernel.intensity, gpu) })).filter(kernel => kernel.speed);
  kernels.push({ name: "a and b loaded once", number: "◆", intensity: n / 4, speed: attainable(n / 4, gpu) });
  const points = Map.groupBy ? Map.groupBy(kernels, k => `${k.intensity} ${k.speed}`) : new Map(kernels.map(k => [k, [k]]));
  const describe = k => `${k.name}: ${unit(flop, "FLOP")}, loads move ${unit(flop / k.intensity, "B")}: ` +
    `${Number(k.intensity.toPrecision(3))} FLOP per byte, ${k.intensity < bend ? "left of the bend (memory-bound)" : "right of the bend (compute-bound)"}; ` +
    `${measured && k.number !== "◆" ? "measured" : "attainable, not measured"}: ${unit(k.speed, "FLOP/s")}, ${unit(flop / k.speed, "s")}`;
  const rows = [...figure.querySelectorAll("tbody tr")];
  const choose = group => {
    rows.forEach((row, i) => row.classList.toggle("chosen", group.some(k => k.number === i + 1)));
    say(figure, group.map(describe).join(" — "));
  };
  svg.setAttribute("height", height);
  svg.replaceChildren(
    ...[0.1, 1, 10, 100].flatMap(v => [line(left, y(v * 1e12), width - 10, y(v * 1e12), "faint"), text(left - 6, y(v * 1e12) + 4, v, "soft", "end")]),
    ...[0.1, 1, 10, 100, 1000].flatMap(v => [line(x(v), 14, x(v), floor, "faint"), text(x(v), floor + 17, v, "soft")]),
    text(width / 2, height - 6, "FLOP per byte that loads move", "soft"), text(left + 4, 26, "TFLOP/s", "soft", "start"),
    path([[x(0.03), y(0.03 * gpu.bytes)], [x(bend), y(gpu.flops)], [x(3000), y(gpu.flops)]], "thick line-ink"),
    line(x(bend), y(gpu.flops), x(bend), floor, "dash soft"), text(x(bend) + 5, floor - 8, `bend: ${bend.toFixed(1)}`, "soft", "start"),
    ...[...points.values()].map((group, i) => {
      const [first] = group, half = group.length > 1 ? 18 : 12, side = i % 2 ? 28 : -28;  // above, below, above…
      const number = group.length > 1 ? `${first.number}–${group.at(-1).number}` : first.number;
      const at = [x(first.intensity), y(first.speed)];
      const point = shape("g", { class: "point", tabindex: 0, role: "button", "aria-label": group.map(describe).join("; ") },
        line(at[0], at[1], at[0], at[1] + side, "axis"), shape("circle", { cx: at[0], cy: at[1], r: 4, class: "fill1" }),
        shape("rect", { x: at[0] - half, y: at[1] + side - 12, width: 2 * half, height: 24, rx: 12 }),
        text(at[0], at[1] + side + 4, number));
      for (const event of ["pointerenter", "focus", "click"]) point.addEventListener(event, () => choose(group));
      return point;
    }));
  rows.forEach((row, i) => {
    const kernel = kernels.find(k => k.number === i + 1);
    const cells = kernel ? [unit(flop / kernel.intensity, "B"), unit(kernel.speed, "FLOP/s"), unit(flop / kernel.speed, "s")] : ["", "", ""];
    cells.forEach((cell, j) => { row.cells[j + 2].textContent = cell; });
  });
  figure.querySelector("thead th:nth-child(4)").textContent = measured ? "measured" : "attainable, not measured";
  slider.setAttribute("aria-valuetext", `${n} by ${n}`);
  say(figure, `${n} × ${n}: ${unit(flop, "FLOP")}. ${gpu.name}: ${unit(gpu.flops, "FLOP/s")}, ${unit(gpu.bytes, "B/s")} ` +
    `(${gpu.source}). Point at a kernel, tap it, or reach it with Tab.`);
}

play("matmul-roofline", drawRoofline);
