"""Pack the network `small` for the browser: 8-bit weights, a scale for each row, in one file for network.js.

The site's build calls this; nothing of it is committed. As a script it measures what the eight bits cost."""
import json
import sys
from pathlib import Path

import torch

import ctdiff_edu as ct
from ctdiff_edu.scores import psnr
from ctdiff_edu.show import generator

MOST_MB, MOST_DB = 4, 0.05


def quantised(w):
    "A weight (out, ...) as int8 and one scale for each row; vectors stay as they are."
    if w.dim() < 2: return None
    rows = w.flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-12)/127
    return (rows/scale[:, None]).round().to(torch.int8), scale


def state(model):
    "Weights by name; a transposed convolution as (out, in, kh, kw), the way all others are."
    found = {name: w.detach().float() for name, w in model.state_dict().items()}
    found["to_high.weight"] = found["to_high.weight"].transpose(0, 1)
    return found


def pack(path):
    "Write the file; returns its size in bytes."
    model, _ = ct.pretrained("small")
    parts, about, at = [], {}, 0
    for name, w in state(model).items():
        packed = quantised(w)
        about[name] = dict(shape=list(w.shape), at=at, kind="int8" if packed else "float32")
        arrays = (packed[1], packed[0]) if packed else (w,)
        data = b"".join(a.contiguous().numpy().tobytes() for a in arrays)
        data += b"\0"*(-len(data) % 4)
        parts.append(data)
        at += len(data)
    head = json.dumps(dict(tensors=about, depth=model.depth, middle=model.middle)).encode()
    head += b" "*(-len(head) % 4)
    Path(path).write_bytes(len(head).to_bytes(4, "little") + head + b"".join(parts))
    return Path(path).stat().st_size


def eight_bit(model):
    "The model with the weights that the browser will have."
    with torch.no_grad():
        for p in model.parameters():
            transposed = p is model.to_high.weight
            w = p.transpose(0, 1) if transposed else p
            if w.dim() < 2: continue
            q, scale = quantised(w)
            restored = (q*scale[:, None]).view(w.shape)
            p.copy_(restored.transpose(0, 1) if transposed else restored)
    return model


def cost(x0, sigma_n=0.3):
    "The PSNR (dB) of one call with float weights, and what is lost with eight bits."
    y = ct.add_noise(x0, sigma_n, generator(0))
    net = ct.load_network("small", precision="float32")
    with torch.no_grad():
        plain = psnr(ct.denoise(net.D, y, sigma_n), x0).mean().item()
        eight_bit(net.model)
        return plain, plain - psnr(ct.denoise(net.D, y, sigma_n), x0).mean().item()


def main(path):
    "Pack, print the size and the cost; returns the exit code."
    size = pack(path)/2**20
    found = [f"{size:.2f} MB"]
    losses = []
    for sigma_n in (0.1, 0.3, 1.0):
        plain, lost = cost(ct.phantoms(64, seed=77), sigma_n)
        losses.append(lost)
        found.append(f"noise {sigma_n}: {plain:.2f} dB, {lost:.3f} dB less with eight bits")
    print("; ".join(found))
    return int(size > MOST_MB or max(losses) > MOST_DB)


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit("usage: pack.py FILE")
    sys.exit(main(sys.argv[1]))
