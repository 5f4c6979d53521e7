"use strict";
// The arithmetic of the project token_world_model: the tokenizer, the transformer with its cache, the draws, the agent. The
// tests compare each with the project's own Python. A frame is a Float32Array, its tokens are an array of integers.
// Weights, `linear`, `convolution` and what else the two kinds of world share are in dream.js.

const N_HEADS = 4, WINDOW = 44, N_TEXTS = 3, NO_TEXT = 0, PATCH = 4;  // PATCH: pixels along a side that one token stands for

// --- tokenizer -----------------------------------------------------------------------------------------------

// A transposed convolution, kernel 4, stride 2, padding 1: each pixel is a stamp of 4 × 4 on an image twice as wide. The
// channels of a pixel lie together while stamps are added up, so that the innermost loop asks for no edge.
function transposedConvolution(weights, name) {
  const { shape: [inner, channels], data } = weights[`${name}.weight`], bias = weights[`${name}.bias`].data;
  const stamps = data.map((_, i) => data[(Math.floor(i / 16 / channels) * channels + i % channels) * 16 + Math.floor(i / channels) % 16]);
  return image => {
    const { size } = image, wide = 2 * size, sums = Float32Array.from({ length: channels * wide * wide }, (_, i) => bias[i % channels]);
    for (let i = 0; i < inner * size * size; i++) {
      const value = image.data[i], c = Math.floor(i / size / size), top = 2 * (Math.floor(i / size) % size) - 1, left = 2 * (i % size) - 1;
      if (value === 0) continue;  // after ReLU about half of them
      for (let tap = 0; tap < 16; tap++) {
        const y = top + (tap >> 2), x = left + (tap & 3);
        if (y < 0 || y >= wide || x < 0 || x >= wide) continue;
        for (let o = 0, to = (y * wide + x) * channels, from = (c * 16 + tap) * channels; o < channels; o++)
          sums[to + o] += value * stamps[from + o];
      }
    }
    return { data: sums.map((_, i) => sums[i % (wide * wide) * channels + Math.floor(i / wide / wide)]), channels, size: wide };
  };
}

function makeTokenizer(weights) {
  const { shape: [nCodes, width], data: codes } = weights["tokenizer.codebook"];
  const [first, second, third] = [0, 2, 4].map(i => linear(weights, `tokenizer.encoder.${i}`));  // on each patch alone
  const layer = (make, i) => make(weights, `tokenizer.decoder.${i}`);
  const layers = [layer(convolution, 0), layer(transposedConvolution, 2), layer(transposedConvolution, 4)];
  const last = layer(convolution, 6), grid = SIDE / PATCH;

  // The code in whose direction z points. Codes have length 1, and the length of z changes nothing.
  const nearest = z => argmax(Float32Array.from({ length: nCodes }, (_, code) => {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += codes[code * width + i] * z[i];
    return sum;
  }));
  return {
    nCodes,
    encode: frame => Array.from({ length: grid * grid }, (_, place) => {
      const corner = Math.floor(place / grid) * PATCH * SIDE + place % grid * PATCH;
      const patch = Float32Array.from({ length: PATCH * PATCH }, (_, i) => frame[corner + Math.floor(i / PATCH) * SIDE + i % PATCH]);
      return nearest(third(second(first(patch).map(relu)).map(relu)));
    }),
    decode(tokens) {
      const data = Float32Array.from({ length: width * tokens.length }, (_, i) =>
        codes[tokens[i % tokens.length] * width + Math.floor(i / tokens.length)]);
      const hidden = layers.reduce((image, f) => map(f(image), relu), { data, channels: width, size: grid });
      return last(hidden).data.map(x => Math.min(1, Math.max(-1, x)));
    },
  };
}

// --- transformer ---------------------------------------------------------------------------------------------

// Abramowitz and Stegun 7.1.26: wrong by 1.5e-7 at the most.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

const gelu = x => x / 2 * (1 + erf(x / Math.SQRT2));

function layerNorm(weights, name) {
  const gain = weights[`${name}.weight`].data, bias = weights[`${name}.bias`].data;
  return x => {
    const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
    const factor = 1 / Math.sqrt(variance + 1e-5);
    return x.map((value, i) => (value - mean) * factor * gain[i] + bias[i]);
  };
}

// Each head's pairs (x_i, x_{i + half}) turned by position·100^(-i/half), in place.
function rotate(x, position) {
  const width = x.length / N_HEADS, half = width / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * 100 ** (-i / half), cos = Math.cos(angle), sin = Math.sin(angle);
    for (let a = i; a < x.length; a += width) {
      const b = a + half, first = x[a];
      x[a] = first * cos - x[b] * sin;
      x[b] = first * sin + x[b] * cos;
    }
  }
}

// One position attends to the `length` that lie in the cache, itself among them. Where each of them stands in the sequence is
// in its rotation, so their order here is free.
function attend(query, { keys, values }, length) {
  const d = query.length, width = d / N_HEADS, mixed = new Float32Array(d), weights = new Float64Array(length);
  for (let head = 0; head < d; head += width) {
    for (let j = 0; j < length; j++) {
      let score = 0;
      for (let i = head; i < head + width; i++) score += query[i] * keys[j * d + i];
      weights[j] = score / Math.sqrt(width);
    }
    const shares = softmax([...weights]);
    for (let j = 0; j < length; j++)
      for (let i = head; i < head + width; i++) mixed[i] += shares[j] * values[j * d + i];
  }
  return mixed;
}

function makeLayer(weights, index) {
  const norm1 = layerNorm(weights, `world.norms.${index}`), norm2 = layerNorm(weights, `world.mlps.${index}.0`);
  const [qkv, out] = ["qkv", "out"].map(name => linear(weights, `world.attends.${index}.${name}`));
  const [wide, narrow] = [1, 3].map(i => linear(weights, `world.mlps.${index}.${i}`));
  const plus = (a, b) => a.map((value, i) => value + b[i]);
  return (x, past, position) => {
    const d = x.length, all = qkv(norm1(x)), query = all.subarray(0, d), key = all.subarray(d, 2 * d);
    rotate(query, position);
    rotate(key, position);
    const place = position % WINDOW * d;  // a new position takes the place of the one that the window has left
    past.keys.set(key, place);
    past.values.set(all.subarray(2 * d), place);
    const h = plus(x, out(attend(query, past, Math.min(position + 1, WINDOW))));
    return plus(h, narrow(wide(norm2(h)).map(gelu)));
  };
}

// The world of the project. A cache is { position, layers: [{ keys, values }] }; `read` changes it.
function makeTransformer(weights) {
  const [embed, place] = ["embed", "place"].map(name => weights[`world.${name}.weight`]);
  const { shape: [step, d] } = place, layers = [];
  while (weights[`world.norms.${layers.length}.weight`]) layers.push(makeLayer(weights, layers.length));
  const norm = layerNorm(weights, "world.norm"), head = name => linear(weights, `world.${name}`);
  return {
    image: head("image"), reward: head("reward"), end: head("end"),
    empty: () => ({ position: 0, layers: layers.map(() => ({ keys: new Float32Array(WINDOW * d), values: new Float32Array(WINDOW * d) })) }),
    // Read one token: what comes out is what the three heads look at.
    read(token, cache) {
      const at = cache.position % step;
      let x = embed.data.slice(token * d, (token + 1) * d).map((value, i) => value + place.data[at * d + i]);
      layers.forEach((layer, i) => { x = layer(x, cache.layers[i], cache.position); });
      cache.position += 1;
      return norm(x);
    },
  };
}

const copyCache = ({ position, layers }) =>
  ({ position, layers: layers.map(({ keys, values }) => ({ keys: keys.slice(), values: values.slice() })) });

// --- draws ---------------------------------------------------------------------------------------------------

const guide = (conditional, unconditional, guidance) =>
  unconditional.map((logit, i) => logit + guidance * (conditional[i] - logit));

// softmax(logits/temperature) over the k greatest; at temperature 0 the greatest alone.
function chances(logits, temperature, k) {
  if (temperature === 0) return Array.from(logits, () => 0).fill(1, argmax(logits), argmax(logits) + 1);
  const greatest = new Set([...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, k));
  return softmax(Array.from(logits, (logit, i) => greatest.has(i) ? logit : -Infinity), temperature);
}

// The first index up to which the probabilities sum to more than u, a number in [0, 1).
function pick(probabilities, u) {
  let sum = 0;
  const index = probabilities.findIndex(p => (sum += p) > u);
  return index >= 0 ? index : probabilities.findLastIndex(p => p > 0);  // the sum may be a hair below 1
}

// --- a dream -------------------------------------------------------------------------------------------------

// All that the figure needs. The agent sees what the tokenizer makes of a frame, in the dream and in the game alike.
function makeTokenWorld(weights) {
  const tokenizer = makeTokenizer(weights), agentLogits = makeReader(weights, "agent", relu), decoded = new WeakMap();
  const look = frame => {
    if (!decoded.has(frame)) decoded.set(frame, tokenizer.decode(tokenizer.encode(frame)));
    return decoded.get(frame);
  };
  const readAgent = frames => agentLogits(stack(...frames.map(frame => plane(frame.map(grey => grey + 1)))));
  return {
    ...tokenizer, ...makeTransformer(weights), readAgent,
    textToken: text => tokenizer.nCodes + text,
    actionToken: action => tokenizer.nCodes + N_TEXTS + action,
    act: history => argmax(readAgent(history.map(look)).slice(0, 3)),  // the fourth number is the value
  };
}

// A moment of a game as the token world dreams it; nothing changes it. `said` is of the move that led here.
class TokenDream {
  constructor(frame, tokens, before = tokens, caches = undefined, said = undefined) {
    Object.assign(this, { frame, tokens, before, caches, said });
  }

  static begin(frame, world) {  // without a world, which is costly to make, the frame alone
    const tokens = world?.encode(frame);
    return new TokenDream(world ? world.decode(tokens) : frame, tokens);
  }

  // next_frame of the project: a generator, which yields after each row of tokens, so that a page can breathe. It returns the
  // dream after the action. `shown` is the real frame where it is shown, instead of a dreamed one.
  *after(action, shown, settings) {
    const { world, text, guidance, temperature, k, random } = settings;
    if (!this.tokens) return yield* TokenDream.begin(this.frame, world).after(action, shown, settings);
    const texts = guidance === 1 ? [text] : [text, NO_TEXT], given = shown && world.encode(shown), tokens = [];
    const caches = this.caches?.map(copyCache) ?? texts.map(() => world.empty());
    const read = token => caches.map(cache => world.read(token, cache));
    const readText = () => caches.map((cache, i) => world.read(world.textToken(texts[i]), cache));
    if (!this.caches) {  // the first frame
      readText();
      this.tokens.forEach(read);
    }
    const [x] = read(world.actionToken(action));
    const said = { reward: argmax(world.reward(x)) - 1, ended: argmax(world.end(x)) === 1 };
    for (let heard = readText(); tokens.length < this.tokens.length; heard = read(tokens.at(-1))) {
      const draw = () => {
        const [conditional, unconditional] = heard.map(world.image);
        const logits = unconditional ? guide(conditional, unconditional, guidance) : conditional;
        return pick(chances(logits, temperature, k), random());
      };
      tokens.push(given ? given[tokens.length] : draw());
      if (tokens.length % (SIDE / PATCH) === 0) yield;
    }
    return new TokenDream(world.decode(tokens), tokens, this.tokens, caches, said);
  }
}
