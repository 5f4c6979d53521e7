"use strict";
// Digits that form: one picture holds all frames, one above the next, and the slider says which is seen. It plays by itself while it is in
// view, unless the reader asked for less motion or took the slider.

{

const FRAME_MS = 250, REST_MS = 2000;

class Forming {
  constructor(figure) {
    const { matches: isCalm } = matchMedia("(prefers-reduced-motion: reduce)");
    Object.assign(this, { figure, slider: control(figure, "step"), button: control(figure, "play"), paused: isCalm, visible: false, timer: 0 });
    for (const taken of ["input", "pointerdown", "keydown"])
      this.slider.addEventListener(taken, ({ key }) => { if (key !== "Tab") this.pause(true); });
    this.button.addEventListener("click", () => this.pause(!this.paused));
    new IntersectionObserver(entries => this.look(entries.at(-1).isIntersecting), { threshold: 0.5 })
      .observe(figure.querySelector(".reel"));
    this.pause(isCalm);
  }

  get last() {
    return Number(this.slider.max);
  }

  look(isVisible) {
    this.visible = isVisible;
    this.schedule();
  }

  pause(isPaused) {
    this.paused = isPaused;
    this.button.textContent = isPaused ? "Play" : "Pause";
    this.show();
    this.schedule();
  }

  schedule() {
    clearTimeout(this.timer);
    const rest_ms = Number(this.slider.value) === this.last ? REST_MS : FRAME_MS;
    if (this.visible && !this.paused) this.timer = setTimeout(() => this.tick(), rest_ms);
  }

  tick() {
    this.slider.value = (Number(this.slider.value) + 1) % (this.last + 1);
    this.show();
    this.schedule();
  }

  show() {
    const step = Number(this.slider.value), picture = this.figure.querySelector("img");
    picture.style.translate = `0 ${-100 * step / (this.last + 1)}%`;
    say(this.figure, step === 0 ? "Step 0: noise and nothing else." : `Step ${step} of ${this.last}${step === this.last ? ": ten digits." : "."}`);
  }
}

const forming = document.getElementById("forming-digits");
if (forming) new Forming(forming);

}
