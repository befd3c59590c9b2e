// The network `small` in plain JavaScript: one thread, no runtime, weights of 8 bits in one file of 2.7 MB (tools/pack.py).
// Images are arrays (pixels, channels); a 3x3 convolution gathers nine pixels in a row and multiplies.

/** Read what tools/pack.py wrote: tensors by name, weights as rows of Float32Array. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const tensors = {};
  for (const [name, { shape, at, kind }] of Object.entries(head.tensors)) {
    const begin = 4 + length + at, rows = shape[0];
    const first = new Float32Array(buffer, begin, rows);
    if (kind === "float32") { tensors[name] = first; continue; }
    const row = shape.slice(1).reduce((a, b) => a * b, 1);
    const bytes = new Int8Array(buffer, begin + 4 * rows, rows * row);
    tensors[name] = ordered(Float32Array.from(bytes, (v, i) => v * first[Math.floor(i / row)]), shape);
  }
  return { ...head, tensors };
}

/** (out, in, kh, kw) to (out, kh, kw, in): channels last, as the images are. */
function ordered(w, shape) {
  if (shape.length < 4) return w;
  const [out, channels, kh, kw] = shape, k = kh * kw, moved = new Float32Array(w.length);
  for (let o = 0; o < out; o++) for (let c = 0; c < channels; c++) for (let i = 0; i < k; i++)
    moved[(o * k + i) * channels + c] = w[(o * channels + c) * k + i];
  return moved;
}

/** rows (n, k) times weights (out, k) plus bias: (n, out). */
function multiply(rows, n, k, w, bias) {
  const out = bias.length, result = new Float32Array(n * out);
  for (let o = 0; o < out; o++) {
    const base = o * k;
    let i = 0;
    for (; i + 4 <= n; i += 4) {                     // four pixels share each weight that is read
      const a = i * k, b = a + k, c = b + k, d = c + k;
      let s0 = bias[o], s1 = s0, s2 = s0, s3 = s0;
      for (let j = 0; j < k; j++) {
        const v = w[base + j];
        s0 += v * rows[a + j]; s1 += v * rows[b + j]; s2 += v * rows[c + j]; s3 += v * rows[d + j];
      }
      result[i * out + o] = s0; result[(i + 1) * out + o] = s1;
      result[(i + 2) * out + o] = s2; result[(i + 3) * out + o] = s3;
    }
    for (; i < n; i++) {
      let s = bias[o];
      for (let j = 0; j < k; j++) s += w[base + j] * rows[i * k + j];
      result[i * out + o] = s;
    }
  }
  return result;
}

function convolve(x, side, channels, w, bias) {
  const rows = new Float32Array(side * side * 9 * channels);
  for (let y = 0; y < side; y++) for (let u = 0; u < side; u++) for (let dy = -1; dy <= 1; dy++)
    for (let dx = -1; dx <= 1; dx++) {
      const v = y + dy, q = u + dx;
      if (v < 0 || q < 0 || v >= side || q >= side) continue;
      const from = (v * side + q) * channels, to = ((y * side + u) * 9 + (dy + 1) * 3 + dx + 1) * channels;
      rows.set(x.subarray(from, from + channels), to);
    }
  return multiply(rows, side * side, 9 * channels, w, bias);
}

const silu = x => x.map(v => v / (1 + Math.exp(-v)));

/** Layer normalisation over the channels of each pixel. */
function pixelNorm(x, channels, weight, bias) {
  const out = new Float32Array(x.length);
  for (let p = 0; p < x.length; p += channels) {
    let mean = 0, square = 0;
    for (let c = 0; c < channels; c++) mean += x[p + c];
    mean /= channels;
    for (let c = 0; c < channels; c++) square += (x[p + c] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / channels + 1e-5);
    for (let c = 0; c < channels; c++) {
      const v = (x[p + c] - mean) * scale;
      out[p + c] = weight ? v * weight[c] + bias[c] : v;
    }
  }
  return out;
}

/** Features of the noise level, from its angle. */
function embed(t, phi) {
  phi = Math.min(Math.max(phi, 1e-3), Math.PI / 2 - 1e-3);
  const logSNR = -2 * Math.log(Math.tan(phi));
  const omega = Array.from({ length: 16 }, (_, i) => Math.PI / 2 * 2 ** (-4 + i / 3));
  const features = Float32Array.from([logSNR / 8, ...omega.map(w => Math.sin(logSNR * w)),
    ...omega.map(w => Math.cos(logSNR * w))]);
  const first = silu(multiply(features, 1, 33, t["embed.mlp.0.weight"], t["embed.mlp.0.bias"]));
  return silu(multiply(first, 1, first.length, t["embed.mlp.2.weight"], t["embed.mlp.2.bias"]));
}

function block(t, name, x, side, e) {
  const get = part => t[`${name}.${part}`];
  const channels = x.length / side ** 2;
  let h = silu(pixelNorm(x, channels, get("norm1.weight"), get("norm1.bias")));
  h = pixelNorm(convolve(h, side, channels, get("conv1.weight"), get("conv1.bias")), channels);
  const change = multiply(e, 1, e.length, get("modulate.weight"), get("modulate.bias"));
  h = silu(h.map((v, i) => v * (1 + change[i % channels]) + change[channels + i % channels]));
  h = convolve(h, side, channels, get("conv2.weight"), get("conv2.bias"));
  return x.map((v, i) => v + h[i]);
}

/** 2x2 squares of pixels as channels: (H, W, C) to (H/2, W/2, 4 C), in the order (dy, dx, c). */
function gather(x, side, channels) {
  const half = side / 2, out = new Float32Array(x.length);
  for (let y = 0; y < side; y++) for (let u = 0; u < side; u++) {
    const to = (((y >> 1) * half + (u >> 1)) * 4 + (y & 1) * 2 + (u & 1)) * channels;
    out.set(x.subarray((y * side + u) * channels, (y * side + u + 1) * channels), to);
  }
  return out;
}

/** The way back. */
function spread(x, half, channels) {
  const side = 2 * half, out = new Float32Array(x.length);
  for (let y = 0; y < side; y++) for (let u = 0; u < side; u++) {
    const from = (((y >> 1) * half + (u >> 1)) * 4 + (y & 1) * 2 + (u & 1)) * channels;
    out.set(x.subarray(from, from + channels), (y * side + u) * channels);
  }
  return out;
}

/** Transposed 2x2 convolution of stride 2. */
function enlarge(x, side, w, bias, channels) {
  const out = bias.length, n = side * side, each = new Float32Array(n * 4 * out);
  for (let i = 0; i < 4; i++) {
    const part = new Float32Array(out * channels);
    for (let o = 0; o < out; o++)
      part.set(w.subarray((o * 4 + i) * channels, (o * 4 + i + 1) * channels), o * channels);
    const shown = multiply(x, n, channels, part, bias);
    for (let p = 0; p < n; p++) each.set(shown.subarray(p * out, (p + 1) * out), (p * 4 + i) * out);
  }
  return spread(each, side, out);
}

/** D(x, sigma) = E[x0 | x = x0 + sigma z] for a square image whose side is a multiple of four. */
export function denoise({ tensors: t, depth, middle }, x, sigma) {
  const side = Math.sqrt(x.length), alpha = 1 / Math.hypot(1, sigma);
  const s = 0.008, cos0 = Math.cos(s / (1 + s) * Math.PI / 2);
  const e = embed(t, Math.acos(Math.min(1, alpha * cos0)));
  const half = side / 2, quarter = side / 4;
  const squares = gather(Float32Array.from(x, v => alpha * v), side, 1);
  let fine = convolve(squares, half, 4, t["conv_in.weight"], t["conv_in.bias"]);
  for (let i = 0; i < depth; i++) fine = block(t, `down.${i}`, fine, half, e);
  const width = fine.length / half ** 2;
  let coarse = multiply(gather(fine, half, width), quarter ** 2, 4 * width, t["to_low.weight"], t["to_low.bias"]);
  const low = coarse.length / quarter ** 2;
  for (let i = 0; i < middle; i++) coarse = block(t, `mid.${i}`, coarse, quarter, e);
  const up = enlarge(coarse, quarter, t["to_high.weight"], t["to_high.bias"], low);
  fine = fine.map((v, i) => v + up[i]);
  for (let i = 0; i < depth; i++) fine = block(t, `up.${i}`, fine, half, e);
  const last = silu(pixelNorm(fine, width, t["norm_out.weight"], t["norm_out.bias"]));
  const v = spread(convolve(last, half, width, t["conv_out.weight"], t["conv_out.bias"]), half, 1);
  return Float32Array.from(x, (value, i) => alpha * alpha * value - sigma * alpha * v[i]);
}
