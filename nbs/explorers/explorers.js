// Explorers: a range input redraws a canvas. No kernel, no dependency, no network beyond this folder.
// A page asks for one with <div class="explorer" data-explorer="forward"></div> and this file as a module.
// The formulas are exported, so that a test can compare them with the Python library.

// ---- formulas ------------------------------------------------------------------------------------------

/** Cosine schedule (Nichol and Dhariwal 2021): share of the variance of the image that is left at t. */
export function cosineBar(t, s = 0.008) {
  const phi = u => (u + s) / (1 + s) * Math.PI / 2;
  return Math.min(1, Math.cos(phi(t)) / Math.cos(phi(0))) ** 2;
}

/** Linear rate of noise (Song et al. 2021), beta from 0.1 to 20. */
export function linearBar(t, low = 0.1, high = 20) {
  return Math.exp(-low * t - (high - low) * t * t / 2);
}

/** Noise level sigma_t/alpha_t of the denoiser contract. */
export const levelOf = bar => Math.sqrt((1 - bar) / bar);

/** Two Gaussian looks at one thing, x of level s and y of level sigmaN, merged into one look m of level tau. */
export function merge(x, s, y, sigmaN) {
  const r = (sigmaN / s) ** 2;
  const lambda = 1 / (1 + r);
  return { lambda, m: (1 - lambda) * x + lambda * y, tau: sigmaN / Math.sqrt(1 + r) };
}

/** The world with one pixel of the SDE lesson: dark or bright. */
export const WORLD = { weight: [0.3, 0.7], mean: [-0.6, 0.5], sd: [0.1, 0.15] };

export const normal = (x, mean, sd) => Math.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * Math.sqrt(2 * Math.PI));

/** E[x0 | x = x0 + sigma z] in that world, in closed form. */
export function denoisePixel(x, sigma, world = WORLD) {
  let total = 0, sum = 0;
  world.weight.forEach((w, k) => {
    const variance = world.sd[k] ** 2 + sigma ** 2;
    const share = w * normal(x, world.mean[k], Math.sqrt(variance));
    total += share;
    sum += share * (world.mean[k] + world.sd[k] ** 2 / variance * (x - world.mean[k]));
  });
  return sum / total;
}

/** The same mean with both looks, by summing over a grid: an oracle for denoisePixel(m, tau). */
export function posteriorMean(x, s, y, sigmaN, world = WORLD, n = 4001) {
  let total = 0, sum = 0;
  for (let i = 0; i < n; i++) {
    const x0 = -3 + 6 * i / (n - 1);
    const prior = world.weight.reduce((p, w, k) => p + w * normal(x0, world.mean[k], world.sd[k]), 0);
    const p = prior * normal(x, x0, s) * normal(y, x0, sigmaN);
    total += p;
    sum += p * x0;
  }
  return sum / total;
}

/** Standard normal numbers from a seed: mulberry32 and Box-Muller. */
export function noise(n, seed) {
  let a = (seed * 2654435761 + 12345) >>> 0;
  const uniform = () => {
    a = (a + 0x6D2B79F5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from({ length: n }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** PSNR in dB of an image in [-1,1]; both are clipped, as the scores lesson does. */
export function psnr(x, clean) {
  const clip = v => Math.max(-1, Math.min(1, v));
  let error = 0;
  for (let i = 0; i < x.length; i++) error += (clip(x[i]) - clip(clean[i])) ** 2;
  return 10 * Math.log10(4 * x.length / error);
}

// ---- drawing -------------------------------------------------------------------------------------------

const BLUE = "#0072B2", ORANGE = "#D55E00", GREEN = "#009E73", SKY = "#56B4E9", AMBER = "#E69F00";

const isDark = () => document.body.classList.contains("quarto-dark")
  || (!document.body.classList.contains("quarto-light") && matchMedia("(prefers-color-scheme: dark)").matches);

/** Colours that are readable on the page as it is now. */
function theme(el) {
  const dark = isDark();
  return { ink: getComputedStyle(el).color, faint: dark ? "#8a939b" : "#667078", grid: dark ? "#444a50" : "#d9dde1",
           blue: dark ? SKY : BLUE, orange: dark ? AMBER : ORANGE, green: dark ? "#2fd0a2" : GREEN };
}

const FONT = "13px system-ui, sans-serif";

function write(c, text, x, y, colour, align = "left") {
  c.font = FONT;
  c.textAlign = align;
  c.fillStyle = colour;
  c.fillText(text, x, y);
}

const scratch = {};

/** Draw a square patch of numbers as grey, black at `low`, white at `high`, its pixels sharp. */
function patch(c, values, x, y, size, low = -1, high = 1) {
  const side = Math.sqrt(values.length);
  const small = scratch[side] ??= Object.assign(document.createElement("canvas"), { width: side, height: side });
  const inside = small.getContext("2d");
  const data = inside.createImageData(side, side);
  for (let i = 0; i < values.length; i++) {
    const grey = 255 * (values[i] - low) / (high - low);
    data.data.set([grey, grey, grey, 255], 4 * i);
  }
  inside.putImageData(data, 0, 0);
  c.imageSmoothingEnabled = false;
  c.drawImage(small, x, y, size, size);
}

/** Patches in a row (rows of two on a phone), each with a line of words above; returns the height used. */
function patches(c, W, shown, colours, limits = {}) {
  const columns = W < 480 ? 2 : Math.max(3, shown.length);
  const gap = 10, head = 20;
  const size = Math.min(220, Math.floor((W - gap * (columns - 1)) / columns));
  shown.forEach(([words, values], i) => {
    const x = (i % columns) * (size + gap), y = Math.floor(i / columns) * (size + head + 8);
    write(c, words, x, y + 14, colours.ink);
    const [low, high] = limits[i] ?? [-1, 1];
    patch(c, values, x, y + head, size, low, high);
  });
  return Math.ceil(shown.length / columns) * (size + head + 8);
}

/** Axes in a box, with functions that turn numbers into pixels. */
function axes(c, box, xs, ys, colours, labels) {
  const { x, y, w, h } = box;
  const px = v => x + (v - xs[0]) / (xs[1] - xs[0]) * w;
  const py = v => y + h - (v - ys[0]) / (ys[1] - ys[0]) * h;
  c.lineWidth = 1;
  c.strokeStyle = colours.grid;
  for (const v of labels.xticks) {
    c.beginPath(); c.moveTo(px(v), y); c.lineTo(px(v), y + h); c.stroke();
    write(c, String(v), px(v), y + h + 15, colours.faint, "center");
  }
  for (const v of labels.yticks ?? []) {
    c.beginPath(); c.moveTo(x, py(v)); c.lineTo(x + w, py(v)); c.stroke();
    write(c, String(v), x - 5, py(v) + 4, colours.faint, "right");
  }
  write(c, labels.x, x + w / 2, y + h + 32, colours.ink, "center");
  write(c, labels.title ?? "", x, y - 7, colours.ink);
  return { px, py };
}

function line(c, { px, py }, f, xs, colour, { n = 240, dash = [], width = 2, clip = [-1e9, 1e9] } = {}) {
  c.beginPath();
  for (let i = 0; i <= n; i++) {
    const v = xs[0] + (xs[1] - xs[0]) * i / n;
    const value = Math.max(clip[0], Math.min(clip[1], f(v)));
    c[i ? "lineTo" : "moveTo"](px(v), py(value));
  }
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.setLineDash(dash);
  c.stroke();
  c.setLineDash([]);
}

function dot(c, x, y, colour, r = 5) {
  c.beginPath();
  c.arc(x, y, r, 0, 2 * Math.PI);
  c.fillStyle = colour;
  c.fill();
}

// ---- patches that were computed beforehand -------------------------------------------------------------

let frames;                                        // a promise: the sheet is fetched once a page

/** The patches of frames.webp as numbers: get(name, i). */
function sheet() {
  return frames ??= (async () => {
    const about = await (await fetch(new URL("frames.json", import.meta.url))).json();
    const picture = new Image();
    picture.src = new URL("frames.webp", import.meta.url);
    await picture.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
    const c = canvas.getContext("2d", { willReadFrequently: true });
    c.drawImage(picture, 0, 0);
    const { side, columns, low, high, stacks } = about;
    const kept = new Map();
    const tile = n => {
      if (!kept.has(n)) {
        const { data } = c.getImageData((n % columns) * side, Math.floor(n / columns) * side, side, side);
        kept.set(n, Float32Array.from({ length: side * side }, (_, i) => low + (high - low) * data[4 * i] / 255));
      }
      return kept.get(n);
    };
    const get = (name, i) => tile(stacks[name][0] + i);
    return { ...about, get };
  })();
}

// ---- the explorers -------------------------------------------------------------------------------------
// each: needs (frames or not), controls, and draw(c, W, values, colours, sheet) -> { height, text }

const fixed = (v, n = 2) => v.toFixed(n);
const IMAGE = { name: "image", label: "phantom", min: 0, max: 2, step: 1, value: 0, show: v => String(v + 1) };
const SCHEDULES = [["cosine", "cosine"], ["linear", "linear"]];

const mix = (a, x, b, z) => x.map((v, i) => a * v + b * z[i]);

const forward = {
  title: "The forward process",
  needs: true,
  controls: [
    { name: "t", label: "time t", min: 0, max: 1, step: 0.01, value: 0.3, show: v => fixed(v) },
    { name: "kind", label: "schedule", choices: SCHEDULES, value: "cosine" },
    IMAGE,
    { name: "seed", label: "noise", min: 0, max: 20, step: 1, value: 0, show: v => `no. ${v}` }],
  draw(c, W, { t, kind, image, seed }, colours, { get, side }) {
    const barOf = kind === "cosine" ? cosineBar : linearBar;
    const bar = barOf(t), alpha = Math.sqrt(bar), sigma = Math.sqrt(1 - bar);
    const x0 = get("clean", image), z = noise(side * side, seed);
    const used = patches(c, W, [["x₀", x0], [`α x₀, α = ${fixed(alpha)}`, x0.map(v => alpha * v)],
      [`σ z, σ = ${fixed(sigma)}`, z.map(v => sigma * v)], ["x_t, the sum", mix(alpha, x0, sigma, z)]],
      colours, { 1: [-1, 1], 2: [-2, 2], 3: [-1.5, 1.5] });
    const box = { x: 40, y: used + 30, w: W - 50, h: 120 };
    const at = axes(c, box, [0, 1], [0, 1], colours,
      { x: "time t", xticks: [0, 0.25, 0.5, 0.75, 1], yticks: [0, 0.5, 1], title: "α (solid) and σ (dashed)" });
    line(c, at, u => Math.sqrt(barOf(u)), [0, 1], colours.blue);
    line(c, at, u => Math.sqrt(1 - barOf(u)), [0, 1], colours.orange, { dash: [6, 4] });
    dot(c, at.px(t), at.py(alpha), colours.blue);
    dot(c, at.px(t), at.py(sigma), colours.orange);
    const level = levelOf(bar);
    return { height: used + 190, text: `ᾱ = ${fixed(bar, 3)}; noise level σ/α = ${level < 1e4 ? fixed(level) : "∞"}; `
      + `signal to noise ${level === 0 ? "∞" : fixed(-20 * Math.log10(level), 1)} dB` };
  },
};

const schedule = {
  title: "Schedules",
  controls: [
    { name: "kind", label: "schedule", choices: SCHEDULES, value: "cosine" },
    { name: "s", label: "offset s", min: 0, max: 0.3, step: 0.004, value: 0.008, show: v => fixed(v, 3) },
    { name: "t", label: "time t", min: 0, max: 1, step: 0.005, value: 0.5, show: v => fixed(v, 3) }],
  draw(c, W, { kind, s, t }, colours) {
    const barOf = kind === "cosine" ? u => cosineBar(u, s) : u => linearBar(u);
    const snr = u => Math.log(barOf(u) / (1 - barOf(u)));
    const narrow = W < 560, w = narrow ? W - 50 : (W - 110) / 2, h = 190;
    const ticks = { x: "time t", xticks: [0, 0.25, 0.5, 0.75, 1] };
    const left = axes(c, { x: 40, y: 30, w, h }, [0, 1], [0, 1], colours,
      { ...ticks, yticks: [0, 0.5, 1], title: "α (solid), σ (dashed)" });
    line(c, left, u => Math.sqrt(barOf(u)), [0, 1], colours.blue);
    line(c, left, u => Math.sqrt(1 - barOf(u)), [0, 1], colours.orange, { dash: [6, 4] });
    dot(c, left.px(t), left.py(Math.sqrt(barOf(t))), colours.blue);
    dot(c, left.px(t), left.py(Math.sqrt(1 - barOf(t))), colours.orange);
    const place = narrow ? { x: 40, y: h + 100, w, h } : { x: w + 100, y: 30, w, h };
    const right = axes(c, place, [0, 1], [-12, 12], colours,
      { ...ticks, yticks: [-10, 0, 10], title: "log-SNR; the other schedule dotted" });
    const other = kind === "cosine" ? u => linearBar(u) : u => cosineBar(u);
    line(c, right, u => Math.log(other(u) / (1 - other(u))), [0, 1], colours.faint,
      { dash: [2, 4], clip: [-12, 12] });
    line(c, right, snr, [0, 1], colours.green, { clip: [-12, 12] });
    dot(c, right.px(t), right.py(Math.max(-12, Math.min(12, snr(t)))), colours.green);
    const level = levelOf(barOf(t));
    return { height: narrow ? 2 * h + 150 : h + 80,
      text: `at t = ${fixed(t, 3)}: ᾱ = ${fixed(barOf(t), 4)}, σ/α = ${level < 1e4 ? level.toPrecision(3) : "∞"}`
        + (kind === "linear" ? "; the offset belongs to the cosine" : "") };
  },
};

const conditioning = {
  title: "Two looks become one",
  controls: [
    { name: "s", label: "level of the state, σ_t/α_t", min: -1.3, max: 1, step: 0.02, value: -0.2,
      show: v => fixed(10 ** v) },
    { name: "sigmaN", label: "noise of y, σₙ", min: 0.05, max: 1, step: 0.01, value: 0.3, show: v => fixed(v) },
    { name: "x", label: "state x_t/α_t", min: -1.5, max: 1.5, step: 0.05, value: 0.9, show: v => fixed(v) },
    { name: "y", label: "measurement y", min: -1.5, max: 1.5, step: 0.05, value: 0, show: v => fixed(v) }],
  draw(c, W, { s, sigmaN, x, y }, colours) {
    s = 10 ** s;
    const { lambda, m, tau } = merge(x, s, y, sigmaN);
    const xs = [-2, 2], h = 150, w = W - 20;
    const ticks = { x: "", xticks: [-2, -1, 0, 1, 2] };
    const peak = 1.15 / (tau * Math.sqrt(2 * Math.PI));
    const top = axes(c, { x: 10, y: 30, w, h }, xs, [0, peak], colours, { ...ticks, title: "what each look says of x₀" });
    line(c, top, v => normal(v, x, s), xs, colours.blue, { dash: [2, 4] });
    line(c, top, v => normal(v, y, sigmaN), xs, colours.orange, { dash: [6, 4] });
    line(c, top, v => normal(v, m, tau), xs, colours.green, { width: 3 });
    const name = (words, at, row, colour) => {
      const px = Math.max(40, Math.min(W - 40, top.px(at)));
      write(c, words, px, 46 + 16 * row, colour, "center");
    };
    name("state", x, 0, colours.blue);
    name("y", y, 1, colours.orange);
    name("m", m, 2, colours.green);
    const prior = v => WORLD.weight.reduce((p, q, k) => p + q * normal(v, WORLD.mean[k], WORLD.sd[k]), 0);
    const both = v => prior(v) * normal(v, m, tau);
    let area = 0;
    for (let i = 0; i < 800; i++) area += both(-2 + i / 200) / 200;
    const tall = Math.max(2.2, ...Array.from({ length: 200 }, (_, i) => both(-2 + i / 50) / area)) * 1.1;
    const low = axes(c, { x: 10, y: h + 85, w, h }, xs, [0, tall], colours,
      { ...ticks, x: "x₀", title: "the prior (dotted) and the posterior" });
    line(c, low, prior, xs, colours.faint, { dash: [2, 4] });
    line(c, low, v => both(v) / area, xs, colours.green, { width: 3, n: 400 });
    const answer = denoisePixel(m, tau);
    c.beginPath(); c.moveTo(low.px(answer), h + 85); c.lineTo(low.px(answer), 2 * h + 85);
    c.strokeStyle = colours.ink; c.lineWidth = 1; c.stroke();
    return { height: 2 * h + 125, text: `λ = ${fixed(lambda, 3)}, m = ${fixed(m, 3)}, τ = ${fixed(tau, 3)}. `
      + `One denoiser call D(m, τ) = ${fixed(answer, 4)}; the posterior mean, summed over a grid: `
      + `${fixed(posteriorMean(x, s, y, sigmaN), 4)}` };
  },
};

const REVERSALS = [["exact", "steered by y, exactly"], ["talk", "the talk's rule"], ["draw", "no y: a new image"]];

const reverse = {
  title: "The reverse process",
  needs: true,
  controls: [
    { name: "step", label: "calls made", min: 0, max: 20, step: 1, value: 8, show: v => `${v} of 20`, play: 180 },
    { name: "kind", label: "sampler", choices: REVERSALS, value: "exact" },
    IMAGE],
  draw(c, W, { step, kind, image }, colours, { get, steps }) {
    const n = image * (steps + 1) + step;
    const state = get(`${kind}.state`, n), guess = get(`${kind}.estimate`, n);
    const free = kind === "draw";
    const shown = [["state x_t", state], [step === steps ? "the result" : "the network's guess of x₀", guess]];
    if (!free) shown.push(["measurement y", get("noisy", image)], ["the truth", get("clean", image)]);
    const used = patches(c, W, shown, colours, { 0: [-1.5, 1.5] });
    const text = free ? "Nothing steers it: which image comes out is decided by the first noise."
      : `the guess scores ${fixed(psnr(guess, get("clean", image)), 1)} dB, one call on y `
        + `${fixed(psnr(get("one", image), get("clean", image)), 1)} dB`;
    return { height: used, text: kind === "talk" ? `${text}; each step here is five of the talk's` : text };
  },
};

const posterior = {
  title: "Posterior samples",
  needs: true,
  controls: [
    { name: "k", label: "samples", min: 1, max: 32, step: 1, value: 1, show: v => String(v), play: 150 },
    IMAGE],
  draw(c, W, { k, image }, colours, { get, samples, side }) {
    const clean = get("clean", image), n = side * side;
    const mse = x => x.reduce((e, v, i) => e + (v - clean[i]) ** 2, 0) / n;
    const sum = new Float64Array(n), squares = new Float64Array(n), errors = [];
    for (let j = 0; j < samples; j++) {
      const x = get("samples", image * samples + j);
      if (j < k) x.forEach((v, i) => { sum[i] += v; squares[i] += v * v; });
      if (j < k) errors.push(mse(sum.map(v => v / (j + 1))));
    }
    const mean = sum.map(v => v / k);
    const spread = squares.map((q, i) => Math.sqrt(Math.max(0, q / k - mean[i] ** 2)));
    const used = patches(c, W, [["measurement y", get("noisy", image)],
      [`sample ${k}`, get("samples", image * samples + k - 1)], [`mean of ${k}`, mean], [k > 1 ? "spread, 0 to 0.4" : "spread (of 2 or more)", spread]],
      colours, { 3: [0, 0.4] });
    const single = mse(get("one", image));
    const ratio = errors[k - 1] / single;
    const box = { x: 40, y: used + 30, w: W - 50, h: 120 };
    const at = axes(c, box, [1, 32], [0.8, 2.6], colours, { x: "samples K", xticks: [1, 8, 16, 24, 32],
      yticks: [1, 1.5, 2, 2.5], title: "error of the mean : error of one call (dashed 1 + 1/K)" });
    line(c, at, v => 1 + 1 / v, [1, 32], colours.orange, { dash: [6, 4] });
    errors.forEach((e, j) => dot(c, at.px(j + 1), at.py(Math.max(0.8, Math.min(2.6, e / single))), colours.blue, 3));
    return { height: used + 190, text: `error of the mean of ${k}: ${fixed(ratio)} times that of one call; `
      + `a perfect sampler has ${fixed(1 + 1 / k)} on average over images` };
  },
};

const VIEWS = [8, 12, 16, 24, 32, 48, 64, 90];

const views = {
  title: "Fewer rays",
  needs: () => slices(),
  controls: [
    { name: "n", label: "views", min: 0, max: 7, step: 1, value: 3, show: v => String(VIEWS[v]), play: 500 },
    { name: "wipe", label: "views measured so far", min: 0, max: 1, step: 0.01, value: 1, show: v => `${Math.round(180 * v)}°` }],
  draw(c, W, { n, wipe }, colours, { picture, sinogram, about }) {
    const { side, errors, methods } = about, edge = 13, inner = side - 2 * edge;      // less air
    const columns = W < 480 ? 2 : 4, gap = 10, head = 20;
    const size = Math.min(260, Math.floor((W - gap * (columns - 1)) / columns));
    const cell = i => [(i % columns) * (size + gap), Math.floor(i / columns) * (size + head + 8)];
    c.imageSmoothingEnabled = true;
    methods.forEach((name, i) => {
      const [x, y] = cell(i);
      write(c, `${name}, ${errors[i][n].toFixed(0)} HU off`, x, y + 14, colours.ink);
      c.drawImage(picture, n * side + edge, i * side + edge, inner, inner, x, y + head, size, size);
    });
    const [x, y] = cell(3);
    write(c, "the slice", x, y + 14, colours.ink);
    c.drawImage(picture, VIEWS.length * side + edge, edge, inner, inner, x, y + head, size, size);
    const below = Math.ceil(4 / columns) * (size + head + 8) + 8, h = 120, w = Math.min(W, 560);
    write(c, `the sinogram: all a scanner sees, ${VIEWS[n]} of 180 angles`, 0, below + 14, colours.ink);
    c.fillStyle = "#000";
    c.fillRect(0, below + head, w, h);
    for (let k = 0; k < VIEWS[n]; k++) {
      const angle = Math.floor(180 * k / VIEWS[n]);
      if (angle > 180 * wipe) break;
      c.drawImage(sinogram, 0, angle, sinogram.width, 1, 0, below + head + angle / 180 * h, w, Math.max(1, h / 180));
    }
    return { height: below + head + h + 6,
      text: `${VIEWS[n]} views, no noise: ${methods.map((m, i) => `${m} ${errors[i][n].toFixed(0)} HU`).join(", ")}` };
  },
};

let patient;                                       // of phantoms: the slice and its reconstructions

async function load(name) {
  const picture = new Image();
  picture.src = new URL(name, import.meta.url);
  await picture.decode();
  return picture;
}

function slices() {
  return patient ??= (async () => ({ about: await (await fetch(new URL("views.json", import.meta.url))).json(),
    picture: await load("views.webp"), sinogram: await load("sinogram.webp") }))();
}

const network = {
  title: "The network, here",
  needs: true,
  controls: [
    { name: "sigma", label: "noise, and what the network is told", min: 0.05, max: 1, step: 0.05, value: 0.3,
      show: v => fixed(v) },
    IMAGE],
  draw(c, W, { sigma, image }, colours, { get, side }, state) {
    const x0 = get("clean", image), n = side * side;
    state.mask ??= new Float32Array(n).fill(1);
    state.z ??= noise(n, 1);
    const y = x0.map((v, i) => v + sigma * state.mask[i] * state.z[i]);
    const now = `${sigma} ${image} ${state.strokes}`;
    const shown = [["draw noise here", y], ["one call", state.of === now ? state.answer : new Float32Array(n).fill(-1)],
      ["the truth", x0]];
    Object.assign(state, { y, sigma, now });
    const used = patches(c, W, shown, colours);
    state.size = Math.min(220, Math.floor((W - 10 * (W < 480 ? 1 : 2)) / (W < 480 ? 2 : 3)));
    const before = psnr(y, x0);
    return { height: used, text: state.of === now
      ? `${fixed(before, 1)} dB before, ${fixed(psnr(state.answer, x0), 1)} dB after; `
        + `the call took ${state.ms.toFixed(0)} ms in one thread of this browser`
      : state.says ?? "Draw noise with a finger or the mouse, or put it everywhere; then denoise." };
  },
  start(canvas, state, redraw) {
    const button = (words, run) => {
      const el = make("button", { type: "button" }, words);
      el.addEventListener("click", run);
      return el;
    };
    const fill = v => { state.mask.fill(v); state.strokes = (state.strokes ?? 0) + 1; redraw(); };
    canvas.style.touchAction = "pan-y";
    canvas.addEventListener("pointermove", event => {
      if (!event.buttons) return;
      const side = Math.sqrt(state.mask.length), cx = event.offsetX / state.size * side;
      const cy = (event.offsetY - 20) / state.size * side;
      if (cx < 0 || cy < 0 || cx >= side || cy >= side) return;
      state.mask.forEach((_, i) => {
        if (Math.hypot(i % side + 0.5 - cx, Math.floor(i / side) + 0.5 - cy) < 3) state.mask[i] = 1;
      });
      state.strokes = (state.strokes ?? 0) + 1;
      redraw();
    });
    const run = async () => {
      try {
        state.says = "Loading the network, 2.7 MB ...";
        redraw();
        const { unpack, denoise } = await import("./network.js");
        if (!state.network) {
          const answer = await fetch(new URL("small.bin", import.meta.url));
          if (!answer.ok) throw new Error("its weights are packed when the site is built, and are not in this folder");
          state.network = unpack(await answer.arrayBuffer());
        }
        const begin = performance.now();
        state.answer = denoise(state.network, state.y, state.sigma);
        Object.assign(state, { ms: performance.now() - begin, of: state.now });
      } catch (error) { state.says = `The network did not come: ${error.message}`; }
      redraw();
    };
    return make("div", { className: "explorer-buttons" }, button("Denoise", run),
      button("No noise", () => fill(0)), button("Noise everywhere", () => fill(1)));
  },
};

export const EXPLORERS = { forward, schedule, conditioning, reverse, posterior, views, network };

// ---- a control, a canvas, and what ties them -----------------------------------------------------------

let serial = 0;

const make = (tag, attributes = {}, ...inside) => {
  const el = Object.assign(document.createElement(tag), attributes);
  el.append(...inside);
  return el;
};

function control(spec, values, redraw) {
  const id = `explorer-${serial++}`;
  const out = make("output", { htmlFor: id });
  let input;
  if (spec.choices) {
    input = make("select", { id }, ...spec.choices.map(([value, words]) => make("option", { value }, words)));
    input.value = spec.value;
  } else {
    input = make("input", { id, type: "range", min: spec.min, max: spec.max, step: spec.step });
    input.value = spec.value;
  }
  const take = () => {
    values[spec.name] = spec.choices ? input.value : Number(input.value);
    out.value = spec.show ? spec.show(values[spec.name]) : "";
    if (spec.show) input.setAttribute("aria-valuetext", out.value);
  };
  take();
  input.addEventListener("input", () => { take(); redraw(); });
  const row = make("div", { className: "explorer-control" }, make("label", { htmlFor: id }, spec.label), input, out);
  if (spec.play) row.append(player(spec, input));
  return row;
}

/** A button that moves the slider by itself, once through. */
function player(spec, input) {
  const button = make("button", { type: "button" }, "Play");
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(input.value) >= spec.max) input.value = spec.min;
    button.textContent = "Stop";
    timer = setInterval(() => {
      input.value = Number(input.value) + spec.step;
      input.dispatchEvent(new Event("input"));
      if (Number(input.value) >= spec.max) stop();
    }, spec.play);
  });
  return button;
}

/** Fill one element with an explorer. */
export async function mount(el) {
  const about = EXPLORERS[el.dataset.explorer];
  if (!about) throw new Error(`data-explorer: got ${el.dataset.explorer}, want one of ${Object.keys(EXPLORERS)}`);
  const patchesOf = typeof about.needs === "function" ? await about.needs() : about.needs ? await sheet() : null;
  const state = {};
  const canvas = make("canvas");
  canvas.setAttribute("role", "img");
  const says = make("p", { className: "explorer-says" });
  says.setAttribute("aria-live", "polite");
  const values = {};
  const redraw = () => {
    const W = Math.max(260, Math.floor(el.clientWidth - 26)), ratio = devicePixelRatio || 1;
    const start = performance.now();
    const paint = height => {
      canvas.width = W * ratio;
      canvas.height = height * ratio;
      canvas.style.height = `${height}px`;
      const c = canvas.getContext("2d");
      c.scale(ratio, ratio);
      return about.draw(c, W, values, theme(el), patchesOf, state);
    };
    let drawn = paint(el.tall ?? 320);
    if (drawn.height !== (el.tall ?? 320)) drawn = paint(el.tall = drawn.height);
    says.textContent = drawn.text;
    canvas.setAttribute("aria-label", `${about.title}. ${drawn.text}`);
    el.dataset.milliseconds = (performance.now() - start).toFixed(1);
  };
  const controls = about.controls.map(spec => control(spec, values, redraw));
  const panel = make("div", { className: "explorer-controls" }, ...controls);
  if (about.start) panel.append(about.start(canvas, state, redraw));
  el.replaceChildren(make("p", { className: "explorer-title" }, about.title), panel, canvas, says);
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", `Explorer: ${about.title}`);
  redraw();
  new ResizeObserver(() => { if (el.wide !== el.clientWidth) { el.wide = el.clientWidth; redraw(); } }).observe(el);
  new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

if (typeof document !== "undefined")
  for (const el of document.querySelectorAll("[data-explorer]:not([role])")) mount(el);
