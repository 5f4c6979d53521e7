"use strict";
// What the page does beside its interactive figures: the contents say where one is, a figure opens large, a narrow screen shows the
// panels of a figure one below the other, and files that are beside the page become links.

{  // a block: other scripts of the page have names of their own

const NARROW = matchMedia("(max-width: 44rem)"), WIDE = matchMedia("(min-width: 72rem)");

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// --- the contents --------------------------------------------------------------------------------------------

function followContents(nav) {
  const menu = nav.querySelector("details"), links = [...nav.querySelectorAll("a")], here = nav.querySelector("#here");
  const fit = () => { menu.open = WIDE.matches; };
  WIDE.addEventListener("change", fit);
  fit();
  for (const link of links) link.addEventListener("click", () => { if (!WIDE.matches) menu.open = false; });
  addEventListener("keydown", event => { if (event.key === "Escape" && !WIDE.matches) menu.open = false; });
  const sections = links.map(link => document.getElementById(link.hash.slice(1)));
  const mark = () => {  // the last section that begins above a third of the screen
    const passed = sections.filter(section => section.getBoundingClientRect().top < innerHeight / 3).length - 1;
    links.forEach((link, i) => link.setAttribute("aria-current", i === passed));
    here.textContent = passed < 0 ? "" : links[passed].textContent;
  };
  let isPlanned = false;
  const plan = () => {
    if (!isPlanned) requestAnimationFrame(() => { isPlanned = false; mark(); });
    isPlanned = true;
  };
  for (const event of ["scroll", "resize"]) addEventListener(event, plan, { passive: true });
  mark();
}

// A link into something that is folded unfolds it.
function unfoldTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView();
}

// --- figures -------------------------------------------------------------------------------------------------

// Part of a picture, from `start` to `end` of its width.
function crop(image, [start, end]) {
  const part = make("img", { src: image.src, alt: "" }), share = end - start;
  Object.assign(part.style, { width: `${100 / share}%`, left: `${-100 * start / share}%` });
  const box = make("div", { className: "crop" }, part);
  box.style.flexGrow = 1000 * share;  // a sum below 1 would leave room
  return box;
}

function stackPanels(figure) {
  const image = figure.querySelector("img"), { width, height } = image.attributes, whole = [Number(width.value), Number(height.value)];
  const panels = JSON.parse(figure.dataset.panels).map(parts => {
    const share = parts.reduce((sum, [start, end]) => sum + end - start, 0), natural = share * whole[0];
    const panel = make("div", { className: "panel" }, ...parts.map(part => crop(image, part)));
    Object.assign(panel.style, { flexBasis: `min(100%, ${0.7 * natural}px)`, maxWidth: `${1.1 * natural}px`, aspectRatio: `${natural} / ${whole[1]}` });
    return panel;
  });
  const stack = make("div", { className: "panels" }, ...panels);
  stack.setAttribute("role", "img");
  stack.setAttribute("aria-label", image.alt);
  image.after(stack);
  figure.classList.add("stacked");
}

function openLarge(image) {
  const dialog = document.getElementById("large"), large = make("img", { src: image.src, alt: image.alt });
  large.style.width = `${Math.max(image.naturalWidth, 0.94 * innerWidth)}px`;
  dialog.querySelector(".scroll").replaceChildren(large);
  dialog.showModal();
}

function prepareFigure(figure) {
  const image = figure.querySelector("img"), point = figure.querySelector(".claim");
  const button = make("button", { type: "button", className: "enlarge" }, "⤢");
  button.setAttribute("aria-label", `Enlarge: ${point.textContent}`);
  point.after(button);
  figure.addEventListener("click", ({ target }) => {
    if (target === button || target.closest("img, .panels")) openLarge(image);
  });
}

function stackAll() {
  if (NARROW.matches) document.querySelectorAll("figure[data-panels]:not(.stacked)").forEach(stackPanels);
}

// --- links ---------------------------------------------------------------------------------------------------

// Files are beside the page only where `nox -s tour` wrote it; in a page that was mailed their names are text.
function linkFiles() {
  if (location.protocol !== "file:" || !location.pathname.endsWith("/build/tour/index.html")) return;
  for (const item of document.querySelectorAll("[data-href]"))
    item.replaceChildren(make("a", { href: item.dataset.href, textContent: item.textContent }));
}

const contents = document.getElementById("contents"), largeDialog = document.getElementById("large");
if (contents) followContents(contents);
largeDialog?.addEventListener("click", ({ target }) => { if (!target.closest("button")) largeDialog.close(); });
document.querySelectorAll("figure.shot").forEach(prepareFigure);
NARROW.addEventListener("change", stackAll);
stackAll();
linkFiles();
addEventListener("hashchange", unfoldTarget);
unfoldTarget();

}
