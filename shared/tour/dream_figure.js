"use strict";
// The playable figure of diffusion_world_model: the real game and the dream side by side, under the same actions. First
// what goes on, then what is seen and pressed. The arithmetic is in dream.js, the drawing helpers are in play.js.

const STAY = 1, N_SEEN = 4, VISIBLE = 0.3;  // frames of a history; the least difference of a pixel that counts
const TICK_MS = 333, END_MS = 1200, BREATH_MS = 30;  // between frames, after a game, and never less
const ARROWS = { ArrowLeft: 0, ArrowDown: STAY, ArrowUp: STAY, ArrowRight: 2 };
const ACTION_NAMES = ["left", "stay", "right"];

const differing = (a, b) => a.map((x, i) => Math.abs(x - b[i]) >= VISIBLE ? 1 : 0);

// --- what goes on --------------------------------------------------------------------------------------------

class Beside {
  constructor(random) {
    this.random = random;
    this.game = new Catch(random);
    this.forget();
    this.begin();
  }

  forget() {  // what the counter counts begins here
    this.record = [];
  }

  begin() {
    this.game.start();
    this.real = Array(N_SEEN).fill(this.game.frame());
    this.dreamed = this.real;
    this.actions = Array(N_SEEN - 1).fill(STAY);
    this.ended = this.isDream = false;
    this.moves = 0;
  }

  get nWrong() {
    return this.record.filter(Boolean).length;
  }

  // One move of both. Yields between two calls of the network; nothing changes until it has come to its end.
  // guess: dream from the first move on, whose direction nothing tells.
  *step(action, { world, network, nSteps, guess }) {
    if (this.ended) return this.begin();
    const { reward, ended } = this.game.step(action), frame = this.game.frame(), isDream = guess || this.moves > 0;
    const actions = [...this.actions, action], previous = this.dreamed.at(-1);
    let following = frame;
    if (isDream) {
      const noise = gaussians(frame.length, this.random);
      for (following of sampling(network, noise, this.dreamed, actions, karrasSigmas(nSteps))) yield;
      this.record.push(differing(frame, following).includes(1));
    }
    const said = world.outcome(previous, action, following);
    this.real = [...this.real.slice(1), frame];
    this.dreamed = [...this.dreamed.slice(1), following];
    this.actions = actions.slice(1);
    Object.assign(this, { reward, ended, said, isDream, moves: this.moves + 1 });
  }
}

// --- what is seen --------------------------------------------------------------------------------------------

class Screen {  // two frames, and a mark for each of the last frames that were dreamed
  constructor(svg) {
    this.svg = svg;
    this.titles = [text(0, 14, "the real game", "strong", "start"), text(0, 14, "", "strong", "start")];
    this.frames = [0, 1].map(() => Array.from({ length: SIDE * SIDE }, (_, i) =>
      shape("rect", { x: i % SIDE, y: Math.floor(i / SIDE), width: 1, height: 1 })));
    this.panels = this.frames.map(cells =>
      shape("g", { class: "frame" }, shape("rect", { width: SIDE, height: SIDE, class: "ground" }), ...cells));
    this.marks = Array.from({ length: 36 }, () => shape("rect", { class: "mark" }));
    svg.append(...this.titles, ...this.panels, ...this.marks);
  }

  layOut() {
    const width = this.svg.clientWidth || 480, gap = 20, side = Math.floor((width - gap) / 2), top = 24;
    this.panels.forEach((panel, i) =>
      panel.setAttribute("transform", `translate(${i * (side + gap)} ${top}) scale(${side / SIDE})`));
    this.titles[1].setAttribute("x", side + gap);
    const pitch = width / this.marks.length;
    this.marks.forEach((mark, i) => {
      const box = { x: i * pitch + 1, y: top + side + 14, width: pitch - 2, height: 10 };
      for (const [name, value] of Object.entries(box)) mark.setAttribute(name, value.toFixed(1));
    });
    this.svg.setAttribute("height", top + side + 26);
  }

  draw(beside, title) {
    const pair = [beside.real.at(-1), beside.dreamed.at(-1)], wrong = differing(...pair);
    this.frames.forEach((cells, side) => cells.forEach((cell, i) => {
      cell.setAttribute("fill-opacity", ((pair[side][i] + 1) / 2).toFixed(3));
      cell.classList.toggle("wrong", side === 1 && wrong[i] === 1);
    }));
    this.titles[1].textContent = title;
    const last = beside.record.slice(-this.marks.length);
    this.marks.forEach((mark, i) =>
      mark.setAttribute("class", `mark ${i >= last.length ? "" : last[i] ? "differs" : "agrees"}`));
  }
}

const outcomeWords = reward => reward > 0 ? "caught" : reward < 0 ? "missed" : "nothing yet";

function describe(beside, { action, byAgent, took_ms }) {
  const { moves, ended, reward, said, isDream, record, nWrong } = beside;
  const who = byAgent ? "the agent" : "you";
  if (!moves) return "A new game. The dream begins with the same first frame as the game.";
  const cells = differing(beside.real.at(-1), beside.dreamed.at(-1)).filter(Boolean).length;
  const dream = !isDream ? "This move is shown to the dream, so that it knows the ball's direction." :
    cells ? `The dream differs in ${cells} of ${SIDE * SIDE} pixels.` : "The dream shows the same.";
  const verdict = ended ? ` The game: ${outcomeWords(reward)}. The dream says: ${outcomeWords(said.reward)}` +
    `${said.ended ? ", and over" : ", and it goes on"}.` : "";
  return `Move ${moves} of ${LAST_STEP}, ${who}: ${ACTION_NAMES[action]}. ${dream}${verdict} ` +
    `Dreamed frames that differ: ${nWrong} of ${record.length}.${isDream ? ` The last one took ${Math.round(took_ms)} ms.` : ""}`;
}

// --- what is pressed -----------------------------------------------------------------------------------------

class DreamFigure {
  constructor(figure) {
    this.figure = figure;
    this.beside = new Beside(mulberry32(5));
    this.screen = new Screen(figure.querySelector("svg"));
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    Object.assign(this, { pending: STAY, busy: false, visible: false, timer: 0, paused: this.calm.matches, last: {} });
    this.listen();
    this.screen.layOut();
    this.show();
  }

  get world() {  // made when it is first needed: who does not scroll so far pays nothing
    return this.made ??= makeWorld(decodeWeights(JSON.parse(document.getElementById("dream-data").textContent)));
  }

  get running() {
    return this.visible && !document.hidden && !this.paused;
  }

  get settings() {
    const { world } = this, isUntrained = control(this.figure, "untrained").checked;
    return {
      world, network: isUntrained ? untrained : world.denoiser,
      nSteps: Number(control(this.figure, "steps").value), guess: control(this.figure, "guess").checked,
    };
  }

  listen() {
    const { figure } = this;
    figure.addEventListener("keydown", event => this.onKey(event));
    for (const button of figure.querySelectorAll("button[value]"))
      button.addEventListener("click", () => this.press(Number(button.value)));
    control(figure, "pause").addEventListener("click", () => this.pause(!this.paused));
    control(figure, "one").addEventListener("click", () => {
      this.pause(true);
      this.advance();
    });
    figure.addEventListener("input", ({ target }) => {
      if (target.name !== "agent") this.beside.forget();  // another dream: count anew
      this.show();
    });
    addEventListener("resize", () => this.screen.layOut());
    document.addEventListener("visibilitychange", () => this.schedule());
    this.calm.addEventListener("change", () => this.pause(this.calm.matches));
    new IntersectionObserver(entries => this.onView(entries.at(-1).isIntersecting), { threshold: 0.25 })
      .observe(figure.querySelector("svg"));
  }

  onKey(event) {
    const isModified = event.ctrlKey || event.altKey || event.metaKey, action = ARROWS[event.key];
    if (action === undefined || isModified || event.target.matches("input")) return;  // a slider needs its arrows
    event.preventDefault();  // else the page scrolls
    this.press(action);
  }

  onView(isVisible) {
    this.visible = isVisible;
    if (isVisible && this.paused && !this.beside.moves) this.showStill();
    this.schedule();
  }

  // Who presses a key plays. Of all presses within a tick the last one counts: a key that repeats is not faster.
  press(action) {
    control(this.figure, "agent").checked = false;
    this.pending = action;
    if (this.paused) this.advance();
  }

  pause(isPaused) {
    this.paused = isPaused;
    this.show();
    this.schedule(BREATH_MS);
  }

  async showStill() {  // for who asked for less motion: a moment of a game, instead of its first frame
    for (let i = 0; i < 5; i++) await this.advance();
  }

  schedule(delay_ms = TICK_MS) {
    clearTimeout(this.timer);
    if (this.running) this.timer = setTimeout(() => this.tick(), delay_ms);
  }

  async tick() {  // the next one is planned when this one is done: a slow machine plays slowly, and nothing queues
    const start = performance.now();
    await this.advance();
    const pause_ms = this.beside.ended ? END_MS : TICK_MS;
    this.schedule(Math.max(BREATH_MS, pause_ms - (performance.now() - start)));
  }

  async advance() {
    if (this.busy) return;
    this.busy = true;
    const { beside, settings } = this, byAgent = control(this.figure, "agent").checked, start = performance.now();
    const action = byAgent ? settings.world.act(beside.real) : this.pending;
    this.pending = STAY;
    let took_ms = 0, from = start;
    for (const _ of beside.step(action, settings)) {
      took_ms += performance.now() - from;
      await new Promise(resolve => setTimeout(resolve));  // scrolling and typing come first
      from = performance.now();
    }
    this.last = { action, byAgent, took_ms: took_ms + performance.now() - from };
    this.busy = false;
    this.show();
  }

  show() {
    const nSteps = control(this.figure, "steps").value, pause = control(this.figure, "pause");
    const isUntrained = control(this.figure, "untrained").checked;
    control(this.figure, "steps").setAttribute("aria-valuetext", `${nSteps} sampling steps`);
    this.screen.draw(this.beside, `${isUntrained ? "untrained" : "the dream"}, ${nSteps} step${nSteps === "1" ? "" : "s"}`);
    pause.textContent = this.paused ? "Play" : "Pause";
    // Three times a second is too often to be read out loud; what somebody asked for is.
    this.figure.querySelector("output").setAttribute("aria-live", this.paused ? "polite" : "off");
    say(this.figure, describe(this.beside, this.last));
  }
}

const dreamFigure = document.getElementById("dream-data") && new DreamFigure(document.getElementById("playable-dream"));
