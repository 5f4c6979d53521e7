"use strict";
// Occupancy: how many warps fit on a multiprocessor, and what limits them.

const PLACES = { warps: 64, blocks: 32, registers: 65536, schedulers: 4 };  // of one multiprocessor, sm_80 and sm_90 alike
const SHARED_BYTES = { A100: 164 * 1024, H100: 228 * 1024 };

const roundUp = (value, unit) => Math.ceil(value / unit) * unit;

// What one block takes: whole warps, registers in units of 256 per warp, shared memory in units of 128 bytes.
function blockCosts({ registers, sharedBytes, blockSize }) {
  const warps = Math.ceil(blockSize / 32), perWarp = roundUp(32 * registers, 256);
  return { warps, perWarp, registers: warps * perWarp, sharedBytes: roundUp(sharedBytes + 1024, 128) };  // 1 KiB is the driver's
}

// How many blocks each resource alone would let in.
function blockLimits(kernel, gpu) {
  const { warps, perWarp, sharedBytes } = blockCosts(kernel);
  const perScheduler = Math.floor(PLACES.registers / PLACES.schedulers / perWarp);  // warps whose registers one scheduler has
  return {
    registers: Math.floor(PLACES.schedulers * perScheduler / warps),
    "shared memory": Math.floor(SHARED_BYTES[gpu] / sharedBytes),
    "places for warps": Math.floor(PLACES.warps / warps),
    "places for blocks": PLACES.blocks,
  };
}

function occupancy(kernel, gpu) {
  const limits = blockLimits(kernel, gpu), blocks = Math.min(...Object.values(limits));
  const limiters = Object.keys(limits).filter(name => limits[name] === blocks);
  return { blocks, warps: blocks * blockCosts(kernel).warps, limits, limiters };
}

function drawPlaces(left, top, width, { warps }, perBlock) {
  const cell = Math.min(30, width / 16);
  return span(0, PLACES.warps - 1, PLACES.warps).flatMap(i => {
    const [x, y] = [left + i % 16 * cell, top + Math.floor(i / 16) * cell], taken = i < warps;
    const box = shape("rect", { x, y, width: cell - 2, height: cell - 2, rx: 2, class: taken ? "token changed" : "token" });
    return taken ? [box, text(x + cell / 2 - 1, y + cell / 2 + 4, Math.floor(i / perBlock))] : [box];
  });
}

function drawLimits(left, top, width, { limits, limiters }, perBlock) {
  return Object.entries(limits).flatMap(([name, blocks], i) => {
    const y = top + 42 * i, warps = blocks * perBlock, limiting = limiters.includes(name);
    return [text(left, y + 12, limiting ? `${name}: the limit` : name, limiting ? "strong" : "", "start"),
      text(left + width, y + 12, `${blocks} × ${perBlock} = ${warps} warps`, limiting ? "strong" : "soft", "end"),
      shape("rect", { x: left, y: y + 18, width, height: 12, class: "token" }),
      shape("rect", { x: left, y: y + 18, width: Math.min(1, warps / PLACES.warps) * width, height: 12, class: limiting ? "fill2" : "fill1" })];
  });
}

function drawOccupancy(figure, svg, width) {
  const [registers, shared, blockSize] = ["registers", "shared-memory", "block-size"].map(name => Number(control(figure, name).value));
  const gpu = control(figure, "multiprocessor").value, kernel = { registers, sharedBytes: 1024 * shared, blockSize };
  const costs = blockCosts(kernel), found = occupancy(kernel, gpu), beside = width >= 640;
  const [left, top] = beside ? [width / 2 + 20, 4] : [1, 4 * width / 16 + 34];
  svg.setAttribute("height", top + 4 * 42);
  svg.replaceChildren(
    text(1, 14, `${found.warps} of ${PLACES.warps} places for warps taken`, "strong", "start"),
    ...drawPlaces(1, 24, beside ? width / 2 - 20 : width - 2, found, costs.warps),
    ...drawLimits(left, top, width - left - 1, found, costs.warps));
  control(figure, "registers").setAttribute("aria-valuetext", `${registers} registers`);
  control(figure, "shared-memory").setAttribute("aria-valuetext", `${shared} KiB`);
  control(figure, "block-size").setAttribute("aria-valuetext", `${blockSize} threads`);
  const number = value => value.toLocaleString("en");
  const fits = `Blocks that fit: ${found.blocks}, ${found.warps} of ${PLACES.warps} warps, ${Math.round(100 * found.warps / PLACES.warps)} %. Limited by`;
  say(figure, `${found.blocks ? fits : "No block fits, and the launch fails for lack of"} ${found.limiters.join(" and ")}. ` +
    `A block of ${blockSize} threads with ${registers} registers each takes ${costs.warps} warps, ${number(costs.registers)} of ` +
    `${number(PLACES.registers)} registers and ${number(costs.sharedBytes)} of ${number(SHARED_BYTES[gpu])} bytes of shared memory.`);
}

play("occupancy", drawOccupancy);
