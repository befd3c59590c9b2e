"""Speed and memory, measured in one run: python tools/bench.py [--only NAME ...] [--threads N] [--out TABLE.csv]
A new row is a function below with @row above it. It yields (what, value, unit); a ratio's parts are measured by the same function, one after the other."""
import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch

from ctdiff_edu import __version__
from ctdiff_edu.data import add_noise, phantoms
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

def peak_memory(code):
    "Seconds and peak memory (MB) of `code` in a process of its own, after torch and the weights are loaded."
    head = "import json, resource, time, torch; torch.set_num_threads(%d)\n" % torch.get_num_threads()
    head += "from ctdiff_edu.training import pretrained; from ctdiff_edu.sampling import network_denoiser\nD = network_denoiser(*pretrained('talk'))\n"
    tail = "\nprint(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
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

@row
@torch.no_grad()
def inference():
    "Network calls on batches of 64 patches of 28x28."
    model, sde = pretrained("talk")
    y, plain = patches(64), network_denoiser(model, sde)
    single = seconds(lambda: plain(y, 0.3))
    fast = network_denoiser(Bfloat16(model), sde)
    half = seconds(lambda: fast(y, 0.3))
    yield "talk, float32", 64 / single, "images/s"
    yield "talk, bfloat16", 64 / half, "images/s"
    yield "bfloat16 is faster than float32", single / half, "times"

@row
def training():
    "Training steps of 64 patches of 28x28, the talk's network, without the frequency loss."
    speed = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        model, sde = pretrained("talk")
        if bf16: model.to(memory_format=torch.channels_last)
        x0, opt = phantoms(64, seed=0), torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        speed[name] = 64 / seconds(lambda: train_step(model.train(), sde, x0, opt, replace(RECIPES["one-cycle"], bf16=bf16), stream(0, 1)), rounds=3)
        yield f"talk, {name}", speed[name], "images/s"
    yield "bfloat16 is faster than float32", speed["bfloat16"] / speed["float32"], "times"

@row
def slice_512():
    "One call on a 512x512 slice, in tiles."
    base = peak_memory("pass")
    time_, memory = peak_memory("with torch.no_grad(): D(torch.randn(1, 1, 512, 512), 0.3)")
    yield "talk, 512x512 slice", time_, "s"
    yield "peak memory of the process", memory, "MB"
    yield "of which before the call", base[1], "MB"

def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"of {' '.join(ROWS)} (all)")
    p.add_argument("--threads", type=int, help="processor threads (torch's choice by default)")
    p.add_argument("--out", help="CSV file to write")
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    about = dict(threads=torch.get_num_threads(), torch=torch.__version__, ctdiff=__version__, capability=torch.backends.cpu.get_cpu_capability())
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    table = []
    for name in a.only or ROWS:
        print(f"\n{name}: {ROWS[name].__doc__}")
        for what, value, unit in ROWS[name]():
            print(f"  {what:44} {value:10.4g} {unit}", flush=True)
            table.append(dict(row=name, what=what, value=value, unit=unit) | about)
    if a.out:
        with open(a.out, "w", newline="") as f:
            out = csv.DictWriter(f, list(table[0]), lineterminator="\n"); out.writeheader(); out.writerows(table)

if __name__ == "__main__":
    main()
