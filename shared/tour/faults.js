// What is wrong with a page as it is open now, as a list of sentences; browser.py evaluates it. It unfolds what is folded.
async () => {
  const all = selector => [...document.querySelectorAll(selector)], found = [], size = e => e.getBoundingClientRect();
  const isSeen = e => e.checkVisibility({ visibilityProperty: true }) && size(e).width > 0;
  const words = e => (e.getAttribute("aria-label") || e.textContent || e.id).trim().slice(0, 40);
  for (const fold of all("main details")) fold.open = true;
  const edge = document.documentElement.clientWidth, reach = document.documentElement.scrollWidth;

  // --- widths ---
  if (reach > edge) found.push(`the page scrolls sideways: ${reach} > ${edge} px`,
    ...all("body *").filter(e => size(e).right > edge + 1 && !e.parentElement.closest(".scroll, .crop")).slice(0, 3)
      .map(e => `${e.localName} is wider than the page: ${e.textContent.trim().slice(0, 40)}`));
  for (const box of all("main *")) {
    const { overflowX, backgroundImage } = getComputedStyle(box);
    if (["auto", "scroll"].includes(overflowX) && box.scrollWidth > box.clientWidth + 1 && backgroundImage === "none")
      found.push(`nothing hints that there is more at the side: ${words(box)}`);
  }

  // --- figures of the demos ---
  for (const figure of all("figure.shot")) {
    const img = figure.querySelector("img"), name = `figure "${img.alt.slice(0, 40)}"`;
    if (!img.alt.trim()) found.push("a figure has no alt text");
    try { await img.decode(); } catch { found.push(`${name} cannot be decoded`); continue; }
    const drawn = [img, ...figure.querySelectorAll(".panels img")].find(isSeen), shown = drawn?.closest(".panels") ?? drawn;
    const seen = shown ? size(shown) : { width: 0, height: 0 };
    if (!img.naturalWidth || seen.width < 50 || seen.height < 20) { found.push(`${name} is not visible`); continue; }
    const frame = size(figure), isCut = [shown, ...shown.querySelectorAll(".panel")].some(e => size(e).right > frame.right + 1);
    if (isCut || size(shown.parentElement).right > edge) found.push(`${name} is cut at its right`);
    if (seen.width < 0.9 * img.naturalWidth && !figure.querySelector("button.enlarge")) found.push(`${name} is small and cannot be enlarged`);
    if (!figure.querySelector(".claim")?.textContent.trim()) found.push(`${name} does not say its point`);
    const pen = new OffscreenCanvas(200, 100).getContext("2d");
    pen.fillStyle = "#fff"; pen.fillRect(0, 0, 200, 100); pen.drawImage(img, 0, 0, 200, 100);
    const pixels = new Uint32Array(pen.getImageData(0, 0, 200, 100).data.buffer);
    if (pixels.every(pixel => pixel === pixels[0])) found.push(`${name} is blank`);
    const nWhite = pixels.filter(pixel => [0, 8, 16].every(bits => (pixel >> bits & 255) > 235)).length;
    if (matchMedia("(prefers-color-scheme: dark)").matches && nWhite > 0.25 * pixels.length) found.push(`${name} is glaring in the dark`);
  }

  // --- interactive figures ---
  for (const figure of all("figure.play"))
    if (!figure.querySelector(".claim, h3")?.textContent.trim()) found.push(`${figure.id} does not say its point`);
  for (const svg of all("figure svg")) {
    const name = `drawing of ${svg.closest("figure").id}`;
    const shapes = [...svg.querySelectorAll("path, rect, circle, line")].filter(e => size(e).width > 1);
    if (size(svg).width < 200 || size(svg).height < 80) found.push(`${name} is not visible`);
    else if (shapes.length < 3) found.push(`${name} is blank`);
    const lowest = Math.max(...[...svg.querySelectorAll("text, rect")].map(e => size(e).bottom));
    if (lowest > size(svg).bottom + 2) found.push(`${name} is cut below`);
    if (svg.innerHTML.includes("NaN")) found.push(`${name} has a NaN in it`);
  }
  for (const e of all("input, select")) if (!e.labels.length) found.push(`${e.id} has no label`);

  // --- what is tapped: at least 24 px each way, as WCAG 2.2 asks; links within a sentence are exempt ---
  if (matchMedia("(pointer: coarse)").matches)
    for (const e of all("summary, button, select, input, nav a, li > a").filter(isSeen)) {
      const boxes = [e, ...(e.labels ?? [])].map(size);
      if (!boxes.some(({ width, height }) => width >= 24 && height >= 24)) found.push(`too small to tap: ${words(e)}`);
    }

  // --- links and the contents ---
  const ids = all("[id]").map(e => e.id);
  for (const id of ids.filter((id, i) => ids.indexOf(id) !== i)) found.push(`two elements have the id ${id}`);
  for (const a of all("a[href^='#']")) if (!document.getElementById(a.hash.slice(1))) found.push(`a link leads to ${a.hash}, which is not there`);
  const contents = document.getElementById("contents"), listed = new Set([...contents?.querySelectorAll("a") ?? []].map(a => a.hash));
  for (const section of all("main > section")) {
    if (!listed.has(`#${section.id}`)) { found.push(`the contents do not list ${section.id}`); continue; }
    section.scrollIntoView({ behavior: "instant" });
    const bar = size(contents), isBar = bar.width > edge / 2;
    if (bar.top < -1 || bar.top > 1) { found.push(`the contents do not stay in view at ${section.id}`); break; }
    if (isBar && size(section).top < bar.bottom - 1) found.push(`the contents hide the top of ${section.id}`);
  }
  scrollTo({ top: 0, behavior: "instant" });
  return found;
}
