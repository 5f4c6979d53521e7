"use strict";
// The playable figure: the real game and a dream of it side by side, under the same actions. The dream is that of
// diffusion_world_model or of token_world_model, as the switch says. First what goes on, then what is seen and pressed. The
// arithmetic is in dream.js and tokens.js, the drawing helpers are in drawing.js.

const VISIBLE = 0.3, GUST = 0.4;  // the least difference of a pixel that counts; train.py: how windy a windy game is
const CALM = 1, WINDY = 2;  // texts; 0 is no text
const TICK_MS = 333, END_MS = 1200, BREATH_MS = 30;  // between frames, after a game, and never less
const ARROWS = { ArrowLeft: 0, ArrowDown: STAY, ArrowUp: STAY, ArrowRight: 2 };
const ACTION_NAMES = ["left", "stay", "right"];
const KINDS = { diffusion: { make: makeWorld, Dream: DiffusionDream }, tokens: { make: makeTokenWorld, Dream: TokenDream } };

const differing = (a, b) => a.map((x, i) => Math.abs(x - b[i]) >= VISIBLE ? 1 : 0);
const unlike = (a, b) => a.map((x, i) => x !== b[i]);

// --- what goes on --------------------------------------------------------------------------------------------

class Beside {
  constructor(random, Dream, gust, world) {  // a world is needed from the first move on
    Object.assign(this, { random, Dream, game: new Catch(random, gust) });
    this.forget();
    this.begin(world);
  }

  forget() {  // what the counter counts begins here
    this.record = [];
  }

  begin(world) {
    this.game.start();
    this.real = Array(N_SEEN).fill(this.game.frame());
    this.ended = this.isDream = false;
    this.moves = 0;
    this.enter(world);
  }

  enter(world) {  // the token world makes tokens of the first frame
    this.dream = this.Dream.begin(this.real.at(-1), world);
  }

  get nWrong() {
    return this.record.filter(Boolean).length;
  }

  // One move of both. Yields between two calls of the network; nothing that is shown changes until it has come to its end.
  // guess: dream from the first move on, whose direction nothing tells.
  *step(action, settings) {
    if (this.ended) return this.begin(settings.world);
    const { reward, ended } = this.game.step(action), frame = this.game.frame(), isDream = settings.guess || this.moves > 0;
    const dream = yield* this.dream.after(action, isDream ? undefined : frame, { ...settings, random: this.random });
    if (isDream) this.record.push(differing(frame, dream.frame).includes(1));
    this.real = [...this.real.slice(1), frame];
    Object.assign(this, { dream, reward, ended, isDream, moves: this.moves + 1 });
  }
}

// --- what is seen --------------------------------------------------------------------------------------------

class Screen {  // two frames, their tokens if they have some, and a mark for each of the last frames that were dreamed
  constructor(svg) {
    this.svg = svg;
    this.titles = ["the real game", "the dream", "its tokens", "its tokens"].map(words => text(0, 0, words, "strong", "start"));
    this.frames = [0, 1].map(() => Array.from({ length: SIDE * SIDE }, (_, i) =>
      shape("rect", { x: i % SIDE, y: Math.floor(i / SIDE), width: 1, height: 1 })));
    this.panels = this.frames.map(cells =>
      shape("g", { class: "frame" }, shape("rect", { width: SIDE, height: SIDE, class: "ground" }), ...cells));
    this.tokens = [0, 1].map(() => Array.from({ length: (SIDE / PATCH) ** 2 }, () => [shape("rect", { class: "token" }), text(0, 0, "")]));
    this.grids = this.tokens.map(cells => shape("g", {}, ...cells.flat()));
    this.marks = Array.from({ length: 36 }, () => shape("rect", { class: "mark" }));
    this.note = text(0, 0, "", "soft", "start");
    svg.append(...this.titles, ...this.panels, ...this.grids, ...this.marks, this.note);
  }

  layOut(hasTokens) {
    const width = this.svg.clientWidth || 480, gap = 20, side = Math.floor((width - gap) / 2), top = 24;
    const place = (element, box) => Object.entries(box).forEach(([name, value]) => element.setAttribute(name, value.toFixed(1)));
    const below = top + side + (hasTokens ? top + side + 8 : 0), pitch = width / this.marks.length, across = SIDE / PATCH, cell = side / across;
    this.titles.forEach((title, i) => place(title, { x: i % 2 * (side + gap), y: 14 + (i > 1 ? top + side + 8 : 0) }));
    this.panels.forEach((panel, i) =>
      panel.setAttribute("transform", `translate(${i * (side + gap)} ${top}) scale(${side / SIDE})`));
    this.tokens.forEach((cells, i) => cells.forEach(([box, number], j) => {
      const x = i * (side + gap) + j % across * cell, y = 2 * top + side + 8 + Math.floor(j / across) * cell;
      place(box, { x: x + 1.5, y: y + 1.5, width: cell - 3, height: cell - 3 });
      place(number, { x: x + cell / 2, y: y + cell / 2 + 6 });
    }));
    for (const element of [...this.grids, ...this.titles.slice(2)]) element.style.display = hasTokens ? "" : "none";
    this.marks.forEach((mark, i) => place(mark, { x: i * pitch + 1, y: below + 14, width: pitch - 2, height: 10 }));
    place(this.note, { x: 0, y: below + 44 });
    this.svg.setAttribute("height", below + 50);
  }

  draw(beside, title, note) {
    const { dream, real, record } = beside, pair = [real.at(-1), dream.frame], wrong = differing(...pair);
    this.frames.forEach((cells, side) => cells.forEach((cell, i) => {
      cell.setAttribute("fill-opacity", ((pair[side][i] + 1) / 2).toFixed(3));
      cell.classList.toggle("wrong", side === 1 && wrong[i] === 1);
    }));
    this.titles[1].textContent = title;
    this.note.textContent = note;
    const last = record.slice(-this.marks.length);
    this.marks.forEach((mark, i) =>
      mark.setAttribute("class", `mark ${i >= last.length ? "" : last[i] ? "differs" : "agrees"}`));
  }

  drawTokens(real, dreamed) {  // each { now, before }, of nine integers
    const changed = [real, dreamed].map(({ now, before }) => unlike(now, before)), other = unlike(dreamed.now, real.now);
    this.tokens.forEach((cells, side) => cells.forEach(([box, number], i) => {
      number.textContent = [real, dreamed][side].now[i];
      number.setAttribute("class", changed[side][i] ? "number strong" : "number soft");
      box.setAttribute("class", `token ${changed[side][i] ? "changed" : ""} ${side === 1 && other[i] ? "other" : ""}`);
    }));
  }
}

const outcomeWords = reward => reward > 0 ? "caught" : reward < 0 ? "missed" : "nothing yet";

function describeDream({ real, dream, isDream, moves }) {
  if (!isDream) return "This move is shown to the dream, so that it knows the ball's direction.";
  const cells = differing(real.at(-1), dream.frame).filter(Boolean).length;
  const pixels = cells ? `The dream differs in ${cells} of ${SIDE * SIDE} pixels` : "The dream shows the same";
  return `${pixels}${dream.tokens ? `; ${unlike(dream.tokens, dream.before).filter(Boolean).length} of its ${dream.tokens.length} tokens changed` : ""}.`;
}

function describe(beside, { action, byAgent, took_ms }) {
  const { moves, ended, reward, dream: { said }, isDream, record, nWrong } = beside;
  if (!moves) return "A new game. The dream begins with the same first frame as the game.";
  const verdict = ended ? ` The game: ${outcomeWords(reward)}. The dream says: ${outcomeWords(said.reward)}` +
    `${said.ended ? ", and over" : ", and it goes on"}.` : "";
  const speed = ` The last one took ${Math.round(took_ms)} ms: at most ${Math.max(1, Math.floor(1000 / took_ms))} a second.`;
  return `Move ${moves} of ${LAST_STEP}, ${byAgent ? "the agent" : "you"}: ${ACTION_NAMES[action]}. ${describeDream(beside)}${verdict} ` +
    `Dreamed frames that differ: ${nWrong} of ${record.length}.${isDream ? speed : ""}`;
}

// --- what is pressed -----------------------------------------------------------------------------------------

class DreamFigure {
  constructor(figure) {
    Object.assign(this, { figure, random: mulberry32(5), worlds: {}, screen: new Screen(figure.querySelector("svg")) });
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    Object.assign(this, { pending: STAY, busy: false, visible: false, timer: 0, paused: this.calm.matches });
    this.listen();
    this.restart();
  }

  get kind() {  // a page with one kind of world has no switch
    return this.figure.querySelector("[name=kind]:checked")?.value ?? this.figure.dataset.kind;
  }

  get world() {  // made when it is first needed: who does not scroll so far pays nothing
    const { kind } = this, stored = () => JSON.parse(document.getElementById(`dream-data-${kind}`).textContent);
    return this.worlds[kind] ??= KINDS[kind].make(decodeWeights(stored()));
  }

  get running() {
    return this.visible && !document.hidden && !this.paused;
  }

  get settings() {
    const value = name => Number(control(this.figure, name).value), isChecked = name => control(this.figure, name).checked;
    return {
      guess: isChecked("guess"), isUntrained: isChecked("untrained"), nSteps: value("steps"),
      text: isChecked("windy") ? WINDY : CALM, temperature: value("temperature"), k: 2 ** value("k"), guidance: value("guidance"),
    };
  }

  get said() {  // where the sliders stand, in words
    const { nSteps, temperature, k, guidance } = this.settings, isAll = control(this.figure, "k").value === control(this.figure, "k").max;
    return {
      steps: `${nSteps} sampling step${nSteps === 1 ? "" : "s"}`, temperature: `temperature ${temperature}`,
      k: isAll ? "all tokens" : `top ${k}`, guidance: `guidance ${guidance}`,
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
    figure.addEventListener("input", ({ target }) => this.onInput(target.name));
    for (const link of document.querySelectorAll("a[data-kind]"))
      link.addEventListener("click", () => this.choose(link.dataset.kind));
    addEventListener("resize", () => this.screen.layOut(this.kind === "tokens"));
    document.addEventListener("visibilitychange", () => this.schedule());
    this.calm.addEventListener("change", () => this.pause(this.calm.matches));
    new IntersectionObserver(entries => this.onView(entries.at(-1).isIntersecting), { threshold: 0.25 })
      .observe(figure.querySelector("svg"));
  }

  onInput(name) {
    if (["kind", "windy", "guidance"].includes(name)) this.restart();
    else if (name !== "agent") this.beside.forget();  // another dream: count anew
    this.show();
  }

  choose(kind) {
    if (kind !== this.kind) this.figure.querySelector(`[name=kind][value=${kind}]`).checked = true;
    this.restart();
  }

  restart() {  // another world, another wind: a new game. A move of the old one that is not done yet ends unseen
    const { kind, settings: { text } } = this, isWindy = kind === "tokens" && text === WINDY;
    for (const element of this.figure.querySelectorAll("[data-only]")) element.hidden = element.dataset.only !== kind;
    this.beside = new Beside(this.random, KINDS[kind].Dream, isWindy ? GUST : 0, this.visible ? this.world : undefined);
    this.last = {};
    this.screen.layOut(kind === "tokens");
    this.show();
  }

  onKey(event) {
    const isModified = event.ctrlKey || event.altKey || event.metaKey, action = ARROWS[event.key];
    if (action === undefined || isModified || event.target.matches("input")) return;  // a slider needs its arrows
    event.preventDefault();  // else the page scrolls
    this.press(action);
  }

  onView(isVisible) {
    this.visible = isVisible;
    if (isVisible && !this.beside.moves) this.beside.enter(this.world);
    this.show();
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
    const { beside } = this;
    for (let i = 0; i < 5 && beside === this.beside; i++) await this.advance();
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
    const { beside, world, settings } = this, byAgent = control(this.figure, "agent").checked;
    const action = byAgent ? world.act(beside.real) : this.pending, network = settings.isUntrained ? untrained : world.denoiser;
    this.pending = STAY;
    let took_ms = 0, from = performance.now();
    for (const _ of beside.step(action, { ...settings, world, network })) {
      took_ms += performance.now() - from;
      await new Promise(resolve => setTimeout(resolve));  // scrolling and typing come first
      from = performance.now();
    }
    if (beside === this.beside) this.last = { action, byAgent, took_ms: took_ms + performance.now() - from };
    this.busy = false;
    this.show();
  }

  show() {
    const { beside, settings, said } = this, pause = control(this.figure, "pause"), { dream, real } = beside;
    for (const [name, words] of Object.entries(said)) control(this.figure, name).setAttribute("aria-valuetext", words);
    const isDiffusion = this.kind === "diffusion", title = isDiffusion && settings.isUntrained ? "untrained" : "the dream";
    const wind = settings.text === WINDY ? "windy" : "calm";
    this.screen.draw(beside, title, isDiffusion ? said.steps : `${wind}, ${said.guidance}, ${said.temperature}, ${said.k}`);
    if (dream.tokens) {
      const [before, now] = real.slice(-2).map(this.world.encode);
      this.screen.drawTokens({ before, now }, { before: dream.before, now: dream.tokens });
    }
    pause.textContent = this.paused ? "Play" : "Pause";
    // Three times a second is too often to be read out loud; what somebody asked for is.
    this.figure.querySelector("output").setAttribute("aria-live", this.paused ? "polite" : "off");
    say(this.figure, describe(beside, this.last));
  }
}

const playable = document.getElementById("playable-dream"), dreamFigure = playable && new DreamFigure(playable);
