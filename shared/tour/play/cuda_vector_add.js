"use strict";
// Coalescing: which sectors of memory one load of a warp touches.

const FLOAT_BYTES = 4, SECTOR_BYTES = 32, WARP_THREADS = 32, SHOWN_SECTORS = 128;  // stride 32 and offset 31 end in the last of them

// Threads by sector: a Map from sector to the threads that load a float there.
function sectorsTouched(stride, offset) {
  const touched = new Map();
  for (let thread = 0; thread < WARP_THREADS; thread++) {
    const sector = Math.floor((stride * thread + offset) * FLOAT_BYTES / SECTOR_BYTES);
    touched.set(sector, [...(touched.get(sector) ?? []), thread]);
  }
  return touched;
}

function coalescing(stride, offset) {
  const sectors = sectorsTouched(stride, offset).size, used = WARP_THREADS * FLOAT_BYTES, moved = sectors * SECTOR_BYTES;
  return { sectors, used, moved, efficiency: used / moved };
}

function drawCoalescing(figure, svg, width) {
  const [stride, offset] = ["stride", "offset"].map(name => Number(control(figure, name).value));
  const [columns, tall, bar] = width < 600 ? [8, 24, 7] : [16, 32, 10], left = 40, gap = 3, top = 6;
  const wide = (width - left - 2) / columns, touched = sectorsTouched(stride, offset);
  const at = sector => [left + sector % columns * wide, top + Math.floor(sector / columns) * (tall + gap)];
  const piece = (wide - gap) / (SECTOR_BYTES / FLOAT_BYTES);  // the width of a float
  svg.setAttribute("height", top + SHOWN_SECTORS / columns * (tall + gap));
  svg.replaceChildren(
    ...span(0, SHOWN_SECTORS - columns, SHOWN_SECTORS / columns).map(sector =>
      text(left - 6, at(sector)[1] + tall / 2 + 4, sector * SECTOR_BYTES, "soft", "end")),
    ...span(0, SHOWN_SECTORS - 1, SHOWN_SECTORS).map(sector => {
      const [x, y] = at(sector);
      return shape("rect", { x, y, width: wide - gap, height: tall, rx: 2, class: touched.has(sector) ? "token changed" : "token" });
    }),
    ...[...touched].flatMap(([sector, threads]) => {
      const [x, y] = at(sector), last = columns > 8 ? `–${threads.at(-1)}` : "…";
      const name = threads.length > 1 ? threads[0] + last : threads[0];
      const read = threads.map(thread => shape("rect", { x: x + (stride * thread + offset) % 8 * piece, y: y + tall - bar - 1,
        width: piece * 0.85, height: bar, class: "fill1" }));
      return [...read, text(x + (wide - gap) / 2, y + (tall - bar) / 2 + 4, name)];
    }));
  const { sectors, used, moved, efficiency } = coalescing(stride, offset);
  control(figure, "stride").setAttribute("aria-valuetext", `stride ${stride}`);
  control(figure, "offset").setAttribute("aria-valuetext", `offset ${offset} floats`);
  say(figure, `Stride ${stride}, offset ${offset}: the warp touches ${sectors} sectors. They move ${moved.toLocaleString("en")} bytes, and the 32 threads ` +
    `use ${used}: ${Number((100 * efficiency).toPrecision(3))} %. The fewest possible are 4 sectors.`);
}

play("coalescing", drawCoalescing);
