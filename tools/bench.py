"""Speed and memory, measured in one run: python tools/bench.py [--only NAME ...] [--threads N] [--out TABLE.csv]
A new row is a function below with @row above it. It yields (what, value, unit); a ratio's parts are measured by the same function, one after the other."""
import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ctdiff_edu import __version__
from ctdiff_edu.data import add_noise, phantoms, write_whole
from ctdiff_edu.network import SmallUNet
from ctdiff_edu.sampling import Bfloat16, generative_denoising, network_denoiser, posterior_samples
from ctdiff_edu.training import RECIPES, pretrained, stream, train_step

ROWS = {}

def row(f):
    ROWS[f.__name__.replace("_", "-")] = f
    return f

def seconds(f, least=1.0, rounds=5):
    "Median seconds of one call of f, after a first that does not count: at least `rounds` calls and `least` seconds."
    f(); times = []
    while len(times) < rounds or sum(times) < least:
        start = time.perf_counter(); f(); times.append(time.perf_counter() - start)
    return statistics.median(times)

def patches(n, seed=0):
    return add_noise(phantoms(n, seed=seed), 0.3, torch.Generator().manual_seed(seed))

def peak_memory(code, weights="talk"):
    "Seconds and peak memory (MB) of `code` in a process of its own, after torch and the weights are loaded. Linux only: getrusage would count what the parent holds."
    head = "import json, re, time, torch; torch.set_num_threads(%d)\n" % torch.get_num_threads()
    head += "from ctdiff_edu.training import pretrained; from ctdiff_edu.sampling import network_denoiser\nD = network_denoiser(*pretrained(%r))\n" % weights
    tail = "\nprint(json.dumps([time.perf_counter() - start, int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024]))"
    return json.loads(subprocess.run([sys.executable, "-c", head + "start = time.perf_counter()\n" + code + tail], check=True, capture_output=True, text=True).stdout.splitlines()[-1])

@row
@torch.no_grad()
def one_call():
    "One call of `talk` against its own 1000-step sampler: the same 4 patches, the same network, float32."
    model, sde = pretrained("talk")
    D, y, g = network_denoiser(model, sde), patches(4), torch.Generator().manual_seed(0)
    start = time.perf_counter(); generative_denoising(y, model, sde, 0.3, 1000, generator=g); slow = time.perf_counter() - start
    one, sample = seconds(lambda: D(y, 0.3)), seconds(lambda: posterior_samples(D, y, 0.3, 1, 15, g), rounds=3)
    yield "talk's sampler, 1000 calls", 1000 * slow / 4, "ms/patch"
    yield "one call", 1000 * one / 4, "ms/patch"
    yield "posterior sample, 15 calls", 1000 * sample / 4, "ms/patch"
    yield "one call is faster than the talk's sampler", slow / one, "times"

def oracle():
    "diffusers' U-Net of about the same size: 48, 72 and 120 channels, one layer each, attention at the lowest resolution."
    sys.modules.setdefault("torchvision", None)        # not needed for this, and one that does not match torch would stop it
    from diffusers import UNet2DModel
    net = UNet2DModel(sample_size=32, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(48, 72, 120), norm_num_groups=12,
                      down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"))
    class Padded(torch.nn.Module):
        prediction = "v"
        def __init__(self): super().__init__(); self.net = net
        def forward(self, x, t): return self.net(F.pad(x, (2, 2, 2, 2)), 1000 * t.float()).sample[..., 2:-2, 2:-2]
    return Padded()

def networks():
    "The networks to compare, each with its SDE. Random weights are as fast as trained ones."
    talk, sde = pretrained("talk")
    return {"talk": (talk, sde), "small": (SmallUNet(), sde), "small with group normalisation": (SmallUNet(norm="group"), sde), "diffusers' UNet2DModel": (oracle(), sde)}

@row
@torch.no_grad()
def inference():
    "Network calls on batches of 64 patches of 28x28."
    y, speed = patches(64), {}
    for name, (model, sde) in networks().items():
        plain = network_denoiser(model.eval(), sde)
        single = seconds(lambda: plain(y, 0.3))
        fast = network_denoiser(Bfloat16(model), sde)
        speed[name] = 64 / seconds(lambda: fast(y, 0.3))
        yield f"{name}, float32", 64 / single, "images/s"
        yield f"{name}, bfloat16", speed[name], "images/s"
    yield "small is faster than talk, bfloat16", speed["small"] / speed["talk"], "times"
    yield "small is faster than diffusers, bfloat16", speed["small"] / speed["diffusers' UNet2DModel"], "times"

@row
def training():
    "Training steps of 64 patches of 28x28 without the frequency loss, bfloat16 unless it says float32."
    speed = {}
    for name, (model, sde) in networks().items():
        for kind in ("float32", "bfloat16") if name == "talk" else ("bfloat16",):
            if kind == "bfloat16": model.to(memory_format=torch.channels_last)
            x0, opt = phantoms(64, seed=0), torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
            speed[name, kind] = 64 / seconds(lambda: train_step(model.train(), sde, x0, opt, replace(RECIPES["one-cycle"], bf16=kind == "bfloat16"), stream(0, 1)), rounds=3)
            yield f"{name}, {kind}", speed[name, kind], "images/s"
    small = speed["small", "bfloat16"]
    yield "talk: bfloat16 is faster than float32", speed["talk", "bfloat16"] / speed["talk", "float32"], "times"
    yield "small is faster than talk", small / speed["talk", "bfloat16"], "times"
    yield "small is faster than diffusers", small / speed["diffusers' UNet2DModel", "bfloat16"], "times"

@row
@torch.no_grad()
def limit():
    "What share of the machine's matrix rate the networks reach: multiply-adds of their convolutions and matrix products over the rate of one large bfloat16 product."
    a, b = torch.randn(4096, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    rate = 4096 * 1024 * 1024 / seconds(lambda: a @ b)
    yield "matrix rate, bfloat16", rate / 1e9, "G multiply-adds/s"
    y = patches(64)
    for name, (model, sde) in networks().items():
        with FlopCounterMode(display=False) as count: model(y[:1], torch.tensor(0.2))
        work, D = count.get_total_flops() / 2, network_denoiser(Bfloat16(model), sde)
        yield f"{name}, multiply-adds of one call", work / 1e6, "M"
        yield f"{name}, share of the matrix rate", 64 * work / seconds(lambda: D(y, 0.3)) / rate, ""

@row
def compiled():
    "What torch.compile (which needs a C++ compiler) is worth: `small`, bfloat16, calls on 64 patches and training steps of 16."
    torch._inductor.config.force_disable_caches = True        # of an earlier run
    for what, work in (("call", 64), ("training step", 16)):
        speed = {}
        for name in ("eager", "compiled"):
            model, sde = SmallUNet().to(memory_format=torch.channels_last), pretrained("talk")[1]
            net, opt, x = torch.compile(model) if name == "compiled" else model, torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True), phantoms(work, seed=0)
            def step(): train_step(net, sde, x, opt, RECIPES["one-cycle"], stream(0, 1))
            def call():
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): net(x, torch.full((work,), 0.2))
            f = call if what == "call" else step
            start = time.perf_counter(); f(); first = time.perf_counter() - start
            speed[name] = work / seconds(f, rounds=20)
        yield f"compiling for a {what}", first, "s"
        for name, v in speed.items(): yield f"{what}, {name}", v, "images/s"
        yield f"a {what} is faster compiled", speed["compiled"] / speed["eager"], "times"
        gain = 1 / speed["eager"] - 1 / speed["compiled"]
        yield "which pays back after", first / gain if gain > 0 else float("inf"), "images"

@row
@torch.no_grad()
def solver():
    "One posterior sample for each of 16 patches, network `talk`, float32."
    model, sde = pretrained("talk")
    D, y, g = network_denoiser(model, sde), patches(16), torch.Generator().manual_seed(0)
    how = dict(solver="dpmpp2m", grid="karras", warm=1.5)
    times = {n: seconds(lambda: posterior_samples(D, y, 0.3, 1, n, g, **how), least=0, rounds=1 if n > 100 else 3) for n in (10, 1000)}
    for n, t in times.items(): yield f"dpmpp2m from a warm start, {n} calls", 1000 * t / 16, "ms/patch"
    yield "10 calls are faster than 1000", times[1000] / times[10], "times"

@row
def slices():
    "One call on a 512x512 slice, in tiles, and how far that is from one call on all of it at once."
    for name in ("talk", "small"):
        base = peak_memory("pass", name)
        time_, memory = peak_memory("with torch.no_grad(): D(torch.randn(1, 1, 512, 512), 0.3)", name)
        yield f"{name}, 512x512 slice", time_, "s"
        yield f"{name}, peak memory of the process", memory, "MB"
        yield f"{name}, of which before the call", base[1], "MB"
    model, sde = pretrained("small")
    y = add_noise(phantoms(1, size=512, seed=0), 0.3, torch.Generator().manual_seed(0))
    with torch.no_grad(): seam = (network_denoiser(model, sde)(y, 0.3) - network_denoiser(model, sde, tile=512)(y, 0.3)).abs()
    yield "small, tiled against whole: largest difference / noise level", 100 * seam.max().item() / 0.3, "%"
    yield "small, tiled against whole: root mean square / noise level", 100 * seam.square().mean().sqrt().item() / 0.3, "%"

@row
def volume():
    "`ctdiff denoise` on volumes of 128x128 slices: memory must not grow with their number, but for the volume itself."
    peak = {}
    for n in (2, 16):
        with tempfile.TemporaryDirectory() as tmp:
            code = f"import numpy as np; from ctdiff_edu.cli import main\nnp.save('{tmp}/a.npy', np.zeros(({n}, 128, 128), 'float32')); main('denoise {tmp}/a.npy {tmp}/b.npy --sigma 0.3 --range -1 1'.split())"
            peak[n] = peak_memory(code)[1]
        yield f"{n} slices, peak memory of the process", peak[n], "MB"
    yield "14 more slices need", peak[16] - peak[2], "MB"

@row
def processes():
    "Training steps of 128 patches, network `small`, bfloat16: one process with one thread, and two (gloo) with one thread each."
    with tempfile.TemporaryDirectory() as tmp:
        speed = {}
        for n in (1, 2):
            train = f"train --data phantoms --network small --recipe one-cycle --batch-size 128 --max-steps 20 --threads 1 --quiet --save-every 100000 --out {tmp}/{n}"
            start = [sys.executable, "-m", *(["torch.distributed.run", "--nproc-per-node", "2", "-m", "--"] if n == 2 else []), "ctdiff_edu.cli"]
            subprocess.run(start + train.split(), check=True, capture_output=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
            with open(f"{tmp}/{n}/history.csv") as f: last = list(csv.DictReader(f))[-1]
            speed[n] = 128 * int(last["step"]) / float(last["seconds"])
            yield f"{n} process{'es' * (n > 1)}", speed[n], "images/s"
        yield "two processes are faster than one", speed[2] / speed[1], "times"

def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"of {' '.join(ROWS)} (all)")
    p.add_argument("--threads", type=int, help="processor threads (torch's choice by default)")
    p.add_argument("--out", help="CSV file to write")
    a = p.parse_args()
    if a.threads is not None and a.threads < 1: p.error(f"--threads: got {a.threads}, want 1 or more")
    if a.out and not Path(a.out).absolute().parent.is_dir(): p.error(f"--out: {Path(a.out).parent} is not an existing folder")
    if a.threads: torch.set_num_threads(a.threads)
    about = dict(threads=torch.get_num_threads(), torch=torch.__version__, ctdiff=__version__, capability=torch.backends.cpu.get_cpu_capability())
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    table = []
    for name in a.only or ROWS:
        print(f"\n{name}: {ROWS[name].__doc__}")
        for what, value, unit in ROWS[name]():
            print(f"  {what:60} {value:10.4g} {unit}", flush=True)
            table.append(dict(row=name, what=what, value=value, unit=unit) | about)
    if a.out:
        text = io.StringIO(newline="")
        out = csv.DictWriter(text, list(table[0]), lineterminator="\n"); out.writeheader(); out.writerows(table)
        write_whole(a.out, lambda f: f.write(text.getvalue().encode()))

if __name__ == "__main__":
    main()
