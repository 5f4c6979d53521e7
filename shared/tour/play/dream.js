"use strict";
// The arithmetic of the project diffusion_world_model: the networks of unet.py and agent.py, the sampler, and the game.
// The tests compare each with the project's own Python. An image is { data, channels, size }: square, data a Float32Array
// in the order channel, row, column. What plays with it is in dream_figure.js; the other kind of world is in tokens.js.

// --- weights -------------------------------------------------------------------------------------------------

const bytesOf = base64 => Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)).buffer;

// Undo export.py: int8 times the scale of its output channel, or plain float32 where there are no scales.
function decodeTensor({ shape, data, scales }) {
  if (!scales) return { shape, data: new Float32Array(bytesOf(data)) };
  const whole = new Int8Array(bytesOf(data)), scale = new Float32Array(bytesOf(scales));
  const row = whole.length / shape[0];
  return { shape, data: Float32Array.from(whole, (q, i) => q * scale[Math.floor(i / row)]) };
}

function decodeWeights(stored) {
  return Object.fromEntries(Object.entries(stored).map(([name, tensor]) => [name, decodeTensor(tensor)]));
}

// --- layers --------------------------------------------------------------------------------------------------

const silu = x => x / (1 + Math.exp(-x));
const relu = x => Math.max(0, x);
const map = (image, f) => ({ ...image, data: image.data.map(f) });

// One column of `depth` numbers per output pixel. Four columns lie together, number by number: the order in which
// `multiplyBlock` reads them; the last four are filled up with zeros.
function unfold({ data, channels, size }, kernel, stride) {
  const out = size / stride, pad = kernel >> 1, depth = channels * kernel * kernel;
  const columns = new Float32Array(depth * Math.ceil(out * out / 4) * 4);
  for (let k = 0; k < depth; k++) {
    const dx = k % kernel - pad, dy = Math.floor(k / kernel) % kernel - pad, plane = Math.floor(k / kernel ** 2) * size * size;
    for (let row = 0; row < out; row++) {
      const y = row * stride + dy;
      if (y < 0 || y >= size) continue;  // beyond the edge: zeros
      for (let column = 0; column < out; column++) {
        const x = column * stride + dx, pixel = row * out + column;
        if (x >= 0 && x < size) columns[((pixel >> 2) * depth + k) * 4 + (pixel & 3)] = data[plane + y * size + x];
      }
    }
  }
  return columns;
}

// Four output channels lie together as well; where there are less than four, the rest are zeros.
function packRows(weight, rows, depth) {
  const packed = new Float32Array(Math.ceil(rows / 4) * 4 * depth);
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < depth; k++) packed[((row >> 2) * depth + k) * 4 + (row & 3)] = weight[row * depth + k];
  return packed;
}

// sums = 4 rows times 4 columns. Sixteen sums stay in registers, so that eight loads serve sixteen products: six times as
// fast as the plain triple loop.
function multiplyBlock(rows, r, columns, c, depth, sums) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
  let s8 = 0, s9 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0, s14 = 0, s15 = 0;
  for (const end = r + 4 * depth; r < end; r += 4, c += 4) {
    const a = rows[r], b = rows[r + 1], d = rows[r + 2], e = rows[r + 3];
    const x = columns[c], y = columns[c + 1], z = columns[c + 2], t = columns[c + 3];
    s0 += a * x; s1 += a * y; s2 += a * z; s3 += a * t;
    s4 += b * x; s5 += b * y; s6 += b * z; s7 += b * t;
    s8 += d * x; s9 += d * y; s10 += d * z; s11 += d * t;
    s12 += e * x; s13 += e * y; s14 += e * z; s15 += e * t;
  }
  sums[0] = s0; sums[1] = s1; sums[2] = s2; sums[3] = s3; sums[4] = s4; sums[5] = s5; sums[6] = s6; sums[7] = s7;
  sums[8] = s8; sums[9] = s9; sums[10] = s10; sums[11] = s11; sums[12] = s12; sums[13] = s13; sums[14] = s14; sums[15] = s15;
}

// A convolution with zero padding that keeps the size, or divides it by the stride.
function convolution(weights, name, stride = 1) {
  const { shape: [channels, inner, kernel], data } = weights[`${name}.weight`], bias = weights[`${name}.bias`].data;
  const depth = inner * kernel * kernel, packed = packRows(data, channels, depth), sums = new Float64Array(16);
  return image => {
    const size = image.size / stride, pixels = size * size, columns = unfold(image, kernel, stride);
    const out = new Float32Array(channels * pixels);
    for (let row = 0; row < channels; row += 4)
      for (let pixel = 0; pixel < pixels; pixel += 4) {
        multiplyBlock(packed, row * depth, columns, pixel * depth, depth, sums);
        for (let i = 0; i < 4 && row + i < channels; i++)
          for (let j = 0; j < 4 && pixel + j < pixels; j++) out[(row + i) * pixels + pixel + j] = sums[4 * i + j] + bias[row + i];
      }
    return { data: out, channels, size };
  };
}

function linear(weights, name) {
  const { shape: [rows], data } = weights[`${name}.weight`], bias = weights[`${name}.bias`].data, depth = data.length / rows;
  return x => Float32Array.from({ length: rows }, (_, row) => {
    let sum = bias[row];
    for (let k = 0; k < depth; k++) sum += data[row * depth + k] * x[k];
    return sum;
  });
}

const GROUP = 8;  // channels that are normalised together

function groupNorm(weights, name) {
  const gain = weights[`${name}.weight`].data, bias = weights[`${name}.bias`].data;
  return image => {
    const pixels = image.size ** 2, out = new Float32Array(image.data.length);
    for (let from = 0; from < out.length; from += GROUP * pixels) {
      const group = image.data.subarray(from, from + GROUP * pixels);
      const mean = group.reduce((sum, x) => sum + x, 0) / group.length;
      const variance = group.reduce((sum, x) => sum + (x - mean) ** 2, 0) / group.length;
      const factor = 1 / Math.sqrt(variance + 1e-5);
      for (let i = from; i < from + group.length; i++) {
        const channel = Math.floor(i / pixels);
        out[i] = (image.data[i] - mean) * factor * gain[channel] + bias[channel];
      }
    }
    return { ...image, data: out };
  };
}

const add = (a, b) => ({ ...a, data: a.data.map((x, i) => x + b.data[i]) });

function stack(...images) {  // their channels, one after the other
  const data = new Float32Array(images.reduce((sum, image) => sum + image.data.length, 0));
  let at = 0;
  for (const image of images) {
    data.set(image.data, at);
    at += image.data.length;
  }
  return { data, channels: images.reduce((sum, image) => sum + image.channels, 0), size: images[0].size };
}

function enlarge({ data, channels, size }) {  // every pixel becomes four
  const wide = 2 * size, out = new Float32Array(channels * wide * wide);
  for (let i = 0; i < out.length; i++) {
    const x = i % wide, y = Math.floor(i / wide);  // y counts on through the channels
    out[i] = data[(y >> 1) * size + (x >> 1)];
  }
  return { data: out, channels, size: wide };
}

const plane = frame => ({ data: frame, channels: 1, size: Math.sqrt(frame.length) });

// --- networks ------------------------------------------------------------------------------------------------

// unet.py: Block. Scale and shift are what the noise level and the actions have to say.
function residualBlock(weights, name) {
  const norm1 = groupNorm(weights, `${name}.norm_1`), norm2 = groupNorm(weights, `${name}.norm_2`);
  const conv1 = convolution(weights, `${name}.conv_1`), conv2 = convolution(weights, `${name}.conv_2`);
  const modulation = linear(weights, `${name}.modulation`);
  const skip = weights[`${name}.skip.weight`] ? convolution(weights, `${name}.skip`) : image => image;
  return (image, embedding) => {
    const h = norm2(conv1(map(norm1(image), silu))), both = modulation(embedding), pixels = h.size ** 2;
    const modulated = map(h, (x, i) => {
      const channel = Math.floor(i / pixels);
      return silu(x * (1 + both[channel]) + both[h.channels + channel]);
    });
    return add(skip(image), conv2(modulated));
  };
}

// The vector of the noise level and of the last actions, before it is mixed.
function embed(cNoise, actions, table) {
  const [, width] = table.shape, half = width * actions.length / 2;
  return Float32Array.from({ length: 2 * half }, (_, i) => {
    const angle = cNoise * 32 ** (i % half / (half - 1)), action = actions[Math.floor(i / width)];
    return (i < half ? Math.cos(angle) : Math.sin(angle)) + table.data[action * width + i % width];
  });
}

// unet.py: UNet. (noisy frame, c_noise, frames, oldest first, actions) -> F, a frame.
function makeDenoiser(weights) {
  const layer = (make, name, ...more) => make(weights, `denoiser.${name}`, ...more);
  const mix1 = layer(linear, "mix_1"), mix2 = layer(linear, "mix_2");
  const first = layer(convolution, "first"), downBlock = layer(residualBlock, "down_block");
  const down = layer(convolution, "down", 2), up = layer(convolution, "up"), upBlock = layer(residualBlock, "up_block");
  const bottom1 = layer(residualBlock, "bottom_1"), bottom2 = layer(residualBlock, "bottom_2");
  const lastNorm = layer(groupNorm, "last_norm"), last = layer(convolution, "last");
  return (noisy, cNoise, history, actions) => {
    const raw = embed(cNoise, actions, weights["denoiser.embed_action.weight"]);
    const embedding = mix2(mix1(raw).map(silu)).map(silu);
    const details = downBlock(first(stack(...[...history, noisy].map(plane))), embedding);
    const bottom = bottom2(bottom1(down(details), embedding), embedding);
    const h = upBlock(stack(up(enlarge(bottom)), details), embedding);
    return last(map(lastNorm(h), silu)).data;
  };
}

// As training begins: the last layer is zero, so F is 0 whatever the other weights are.
const untrained = noisy => new Float32Array(noisy.length);

// Two convolutions and two linear layers: the outcome head and the agent.
function makeReader(weights, name, activate) {
  const conv1 = convolution(weights, `${name}.body.0`), conv2 = convolution(weights, `${name}.body.2`, 2);
  const linear1 = linear(weights, `${name}.body.5`), linear2 = linear(weights, `${name}.body.7`);
  return image => linear2(linear1(map(conv2(map(conv1(image), activate)), activate).data).map(activate));
}

const argmax = values => values.indexOf(Math.max(...values));

// All that the figure needs; `outcome` and `act` take the most probable answer.
function makeWorld(weights) {
  const outcomeLogits = makeReader(weights, "outcome", silu), agentLogits = makeReader(weights, "agent", relu);
  const readOutcome = (frame, action, following) => {
    const oneHot = [0, 1, 2].map(a => new Float32Array(frame.length).fill(a === action ? 1 : 0));
    return outcomeLogits(stack(...[frame, following, ...oneHot].map(plane)));
  };
  const fromZero = frame => frame.map(grey => grey + 1);  // the empty field enters the agent as 0
  const readAgent = history => agentLogits(stack(...history.map(frame => plane(fromZero(frame)))));
  return {
    denoiser: makeDenoiser(weights), readOutcome, readAgent,
    outcome(frame, action, following) {
      const logits = readOutcome(frame, action, following);
      return { reward: argmax(logits.slice(0, 3)) - 1, ended: argmax(logits.slice(3)) === 1 };
    },
    act: history => argmax(readAgent(history).slice(0, 3)),  // the fourth number is the value
  };
}

// --- diffusion -----------------------------------------------------------------------------------------------

const OFFSET = 0.3, SIGMA_DATA = 0.5;

function preconditioning(sigma) {
  const effective = Math.hypot(sigma, OFFSET), total = effective ** 2 + SIGMA_DATA ** 2, skip = SIGMA_DATA ** 2 / total;
  return { cIn: 1 / Math.sqrt(total), cSkip: skip, cOut: effective * Math.sqrt(skip), cNoise: Math.log(effective) / 4 };
}

// D before it is rounded.
function rawDenoised(network, noisy, sigma, history, actions) {
  const { cIn, cSkip, cOut, cNoise } = preconditioning(sigma);
  const output = network(noisy.map(x => cIn * x), cNoise, history, actions);
  return noisy.map((x, i) => cSkip * x + cOut * output[i]);
}

const toByte = x => Math.round((Math.min(1, Math.max(-1, x)) + 1) * 127.5) / 127.5 - 1;

// Euler's method; yields x after each call of the network, so that a page can breathe between them. The last is the frame.
function* sampling(network, noise, history, actions, sigmas) {
  let x = noise.map(n => sigmas[0] * n);
  for (let i = 0; i + 1 < sigmas.length; i++) {
    const clean = rawDenoised(network, x, sigmas[i], history, actions).map(toByte);
    const step = (sigmas[i + 1] - sigmas[i]) / sigmas[i];
    x = x.map((value, j) => value + step * (value - clean[j]));
    yield x;
  }
}

// --- chance and the game -------------------------------------------------------------------------------------

function mulberry32(seed) {  // numbers in [0, 1), the same for the same seed
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

function gaussians(n, random) {  // Box and Muller; 1 - u is never 0
  return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
}

const FIELD = 10, SIDE = 12, LAST_STEP = 9, EMPTY = -1, WALL = -0.5, PADDLE = 0.5, BALL = 1;

// game.py: Catch. A game that has ended stands still until `start`.
class Catch {
  constructor(random, gust = 0) {
    Object.assign(this, { random, gust });
    this.start();
  }

  below(n) {
    return Math.floor(n * this.random());
  }

  start() {
    Object.assign(this, { row: 0, column: this.below(FIELD), direction: 2 * this.below(2) - 1, paddle: this.below(FIELD - 1) });
  }

  step(action) {
    this.paddle = Math.min(FIELD - 2, Math.max(0, this.paddle + action - 1));
    const ahead = this.column + this.direction;
    if (ahead < 0 || ahead >= FIELD) this.direction = -this.direction;
    this.row += 1;
    this.column += this.direction;
    if (this.gust && this.random() < this.gust) this.column = Math.min(FIELD - 1, Math.max(0, this.column + 2 * this.below(2) - 1));
    const ended = this.row === LAST_STEP, caught = [0, 1].includes(this.column - this.paddle);
    return { reward: !ended ? 0 : caught ? 1 : -1, ended };
  }

  frame() {
    const frame = Float32Array.from({ length: SIDE * SIDE }, (_, i) => {
      const row = Math.floor(i / SIDE), column = i % SIDE;
      return [row, column].some(place => place === 0 || place === SIDE - 1) ? WALL : EMPTY;
    });
    frame[FIELD * SIDE + this.paddle + 1] = frame[FIELD * SIDE + this.paddle + 2] = PADDLE;
    frame[(this.row + 1) * SIDE + this.column + 1] = BALL;
    return frame;
  }
}

// --- a dream -------------------------------------------------------------------------------------------------

const STAY = 1, N_SEEN = 4;  // frames of a history

// A moment of a game as the diffusion world dreams it; nothing changes it. `said` is of the move that led here.
class DiffusionDream {
  constructor(frames, actions, said = undefined) {
    Object.assign(this, { frames, actions, said });
  }

  static begin(frame) {
    return new DiffusionDream(Array(N_SEEN).fill(frame), Array(N_SEEN - 1).fill(STAY));
  }

  get frame() {
    return this.frames.at(-1);
  }

  // A generator, which yields between two calls of the network; it returns the dream after the action. `shown` is the real
  // frame where it is shown, instead of a dreamed one.
  *after(action, shown, { world, network, nSteps, random }) {
    const actions = [...this.actions, action];
    let following = shown;
    if (!shown) {
      const noise = gaussians(this.frame.length, random);
      for (following of sampling(network, noise, this.frames, actions, karrasSigmas(nSteps))) yield;
    }
    const said = world.outcome(this.frame, action, following);
    return new DiffusionDream([...this.frames.slice(1), following], actions.slice(1), said);
  }
}
