"""Speed and memory, measured in one run: python tools/bench.py [--only NAME ...] [--threads N] [--out CSV]

A measurement is a function below that yields (what, value, unit), and a name in ROWS. The parts of a ratio
are measured by the same function, one after the other."""
import argparse
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
from ctdiff_edu.data import add_noise, phantoms
from ctdiff_edu.files import check_writable, load_table, save_table
from ctdiff_edu.machine import stream
from ctdiff_edu.network import SmallUNet
from ctdiff_edu.sampling import generative_denoising, network_denoiser
from ctdiff_edu.solvers import posterior_samples
from ctdiff_edu.training import ONE_CYCLE, train_step
from ctdiff_edu.weights import pretrained

DIFFUSERS = "diffusers' UNet2DModel"


# clocks and what is measured

def once(f):
    "Seconds of one call."
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def seconds(f, least=1.0, rounds=5):
    "Median seconds of a call, after one that does not count: of so many calls and so many seconds at least."
    f()
    times = []
    while len(times) < rounds or sum(times) < least: times.append(once(f))
    return statistics.median(times)


def generator(): return torch.Generator().manual_seed(0)


def patches(n, size=28):
    "Noisy phantoms."
    return add_noise(phantoms(n, size=size), 0.3, generator())


HEAD = """import json, re, time, torch
torch.set_num_threads({threads})
from ctdiff_edu.sampling import network_denoiser
from ctdiff_edu.weights import pretrained
D = network_denoiser(*pretrained({weights!r}))
start = time.perf_counter()
"""
TAIL = """
memory = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])/1024
print(json.dumps([time.perf_counter() - start, memory]))
"""


def peak_memory(code, weights="talk"):
    "Seconds of `code` in a process that has loaded torch and weights, and its peak memory (MB). On Linux."
    head = HEAD.format(threads=torch.get_num_threads(), weights=weights)
    run = [sys.executable, "-c", head + code + TAIL]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


# the networks

class Padded(torch.nn.Module):
    "diffusers' U-Net for 28x28 pixels, called as ours are."
    prediction = "v"

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(F.pad(x, (2, 2, 2, 2)), 1000*t.float()).sample[..., 2:-2, 2:-2]


def oracle():
    "diffusers' U-Net of about the same size: 48, 72 and 120 channels, attention at the lowest resolution."
    sys.modules.setdefault("torchvision", None)     # not needed; one that does not match torch would stop it
    from diffusers import UNet2DModel
    down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    up = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    return Padded(UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=12,
        block_out_channels=(48, 72, 120), down_block_types=down, up_block_types=up))


def networks():
    "The networks to compare, and their SDE. Random weights are as fast as trained ones."
    talk, sde = pretrained("talk")
    group = "small with group normalisation"
    return {"talk": talk, "small": SmallUNet(), group: SmallUNet(norm="group"), DIFFUSERS: oracle()}, sde


# the measurements

@torch.no_grad()
def one_call():
    "One call of `talk` against its own 1000-step sampler: the same 4 patches, the same network, float32."
    model, sde = pretrained("talk")
    D, y, g = network_denoiser(model, sde), patches(4), generator()
    slow = once(lambda: generative_denoising(y, model, sde, 0.3, 1000, generator=g))
    one = seconds(lambda: D(y, 0.3))
    sample = seconds(lambda: posterior_samples(D, y, 0.3, 1, g), rounds=3)
    yield "talk's sampler, 1000 calls", 1000*slow/4, "ms/patch"
    yield "one call", 1000*one/4, "ms/patch"
    yield "posterior sample, 10 calls", 1000*sample/4, "ms/patch"
    yield "one call is faster than the talk's sampler", slow/one, "times"


def calls_per_second(model, sde, y, precision):
    "Images a second through one call."
    D = network_denoiser(model, sde, precision)
    return len(y)/seconds(lambda: D(y, 0.3))


@torch.no_grad()
def inference():
    "Network calls on batches of 64 patches of 28x28."
    (models, sde), y, speed = networks(), patches(64), {}
    for name, model in models.items():
        for precision in ("float32", "bfloat16"):
            speed[name, precision] = calls_per_second(model.eval(), sde, y, precision)
            yield f"{name}, {precision}", speed[name, precision], "images/s"
    yield from against_small(speed, "bfloat16")


def against_small(speed, precision):
    "How much faster `small` is than the others."
    for name in ("talk", DIFFUSERS):
        ratio = speed["small", precision]/speed[name, precision]
        yield f"small is faster than {name}, {precision}", ratio, "times"


def steps_per_second(model, sde, x0, precision):
    "Images a second in training, without the frequency loss."
    if precision == "bfloat16": model.to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    recipe = replace(ONE_CYCLE, precision=precision)
    def step(): train_step(model.train(), sde, x0, opt, recipe, stream(0, 1))
    return len(x0)/seconds(step, rounds=3)


def training():
    "Training steps of 64 patches of 28x28 without the frequency loss."
    (models, sde), x0, speed = networks(), phantoms(64), {}
    for name, model in models.items():
        for precision in ("float32", "bfloat16"):
            speed[name, precision] = steps_per_second(model, sde, x0, precision)
            yield f"{name}, {precision}", speed[name, precision], "images/s"
    gain = speed["talk", "bfloat16"]/speed["talk", "float32"]
    yield "talk: bfloat16 is faster than float32", gain, "times"
    yield from against_small(speed, "bfloat16")


@torch.no_grad()
def limit():
    "What share of the rate of one large bfloat16 product the networks reach, by their multiply-adds."
    a, b = torch.randn(4096, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    rate = a.numel()*b.shape[1]/seconds(lambda: a @ b)
    yield "matrix rate, bfloat16", rate/1e9, "G multiply-adds/s"
    (models, sde), y = networks(), patches(64)
    for name, model in models.items():
        with FlopCounterMode(display=False) as count: model(y[:1], torch.tensor(0.2))
        work = count.get_total_flops()/2
        share = work*calls_per_second(model, sde, y, "bfloat16")/rate
        yield f"{name}, multiply-adds of one call", work/1e6, "M"
        yield f"{name}, share of the matrix rate", share, ""


def compiled():
    "What torch.compile (which needs a C++ compiler) is worth: `small`, bfloat16."
    torch._inductor.config.force_disable_caches = True          # of an earlier run
    yield from worth("call", small_call, 64)
    yield from worth("training step", small_step, 16)


def small_call(compile_, n):
    "One call of `small` on n patches, as a function."
    model, x = SmallUNet().to(memory_format=torch.channels_last), phantoms(n)
    net = torch.compile(model) if compile_ else model
    def call():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): net(x, torch.full((n,), 0.2))
    return call


def small_step(compile_, n):
    "One training step of `small` on n patches, as a function."
    model, x = SmallUNet().to(memory_format=torch.channels_last), phantoms(n)
    net, sde = torch.compile(model) if compile_ else model, pretrained("talk")[1]
    opt = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    recipe = replace(ONE_CYCLE, precision="bfloat16")
    return lambda: train_step(net, sde, x, opt, recipe, stream(0, 1))


def worth(what, make, n):
    "Eager against compiled, and when compiling pays."
    eager, fast = make(False, n), make(True, n)
    first = once(fast)
    before, after = (seconds(f, rounds=20)/n for f in (eager, fast))
    yield f"compiling for a {what}", first, "s"
    yield f"{what}, eager", 1/before, "images/s"
    yield f"{what}, compiled", 1/after, "images/s"
    yield f"a {what} is faster compiled", before/after, "times"
    yield "which pays back after", first/(before - after) if before > after else float("inf"), "images"


@torch.no_grad()
def solver():
    "One posterior sample for each of 16 patches, network `talk`, float32."
    D, y, g = network_denoiser(*pretrained("talk")), patches(16), generator()
    few = seconds(lambda: posterior_samples(D, y, 0.3, 1, g, 10), least=0, rounds=3)
    many = once(lambda: posterior_samples(D, y, 0.3, 1, g, 1000))
    yield "posterior sample, 10 calls", 1000*few/16, "ms/patch"
    yield "posterior sample, 1000 calls", 1000*many/16, "ms/patch"
    yield "10 calls are faster than 1000", many/few, "times"


def slices():
    "One call on a 512x512 slice, in tiles, and how far that is from one call on all of it at once."
    for name in ("talk", "small"):
        _, before = peak_memory("pass", name)
        took, memory = peak_memory("with torch.no_grad(): D(torch.randn(1, 1, 512, 512), 0.3)", name)
        yield f"{name}, 512x512 slice", took, "s"
        yield f"{name}, peak memory of the process", memory, "MB"
        yield f"{name}, of which before the call", before, "MB"
    seam = tile_error(*pretrained("small"))
    yield "small, tiled against whole: largest difference / noise level", 100*seam.max().item()/0.3, "%"
    rms = seam.square().mean().sqrt().item()
    yield "small, tiled against whole: root mean square / noise level", 100*rms/0.3, "%"


@torch.no_grad()
def tile_error(model, sde):
    "How far one call in tiles is from one call on the whole slice."
    y = patches(1, size=512)
    tiled, whole = network_denoiser(model, sde), network_denoiser(model, sde, tile=512)
    return (tiled(y, 0.3) - whole(y, 0.3)).abs()


VOLUME = """
import numpy as np
from ctdiff_edu.cli import main
np.save("{folder}/a.npy", np.zeros(({n}, 128, 128), "float32"))
main("denoise {folder}/a.npy {folder}/b.npy --sigma 0.3 --range -1 1".split())
"""


def volume():
    "`ctdiff denoise` on 128x128 slices: memory must not grow with their number, but for the volume itself."
    peak = {}
    for n in (2, 16):
        with tempfile.TemporaryDirectory() as folder:
            peak[n] = peak_memory(VOLUME.format(folder=folder, n=n))[1]
        yield f"{n} slices, peak memory of the process", peak[n], "MB"
    yield "14 more slices need", peak[16] - peak[2], "MB"


TRAIN = ("train --data phantoms --network small --recipe one-cycle --batch-size 128 --max-steps 20 "
         "--threads 1 --quiet --save-every 100000 --out")


def trained_speed(start, out):
    "Images a second of a training that is started so."
    one_thread = os.environ | dict(OMP_NUM_THREADS="1")
    run = [sys.executable, "-m", *start, "ctdiff_edu.cli", *TRAIN.split(), out]
    subprocess.run(run, check=True, capture_output=True, env=one_thread)
    last = load_table(Path(out)/"history.csv")[-1]
    return 128*last["step"]/last["seconds"]


def processes():
    "Training steps of 128 patches, network `small`: one process of one thread, and two (gloo) of one each."
    two = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    with tempfile.TemporaryDirectory() as folder:
        alone = trained_speed([], f"{folder}/1")
        yield "1 process", alone, "images/s"
        both = trained_speed(two, f"{folder}/2")
        yield "2 processes", both, "images/s"
    yield "two processes are faster than one", both/alone, "times"


ROWS = {
    "one-call": one_call, "inference": inference, "training": training, "limit": limit,
    "compiled": compiled, "solver": solver, "slices": slices, "volume": volume, "processes": processes}


# the table

def parser():
    "What the script takes."
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"of {' '.join(ROWS)} (all)")
    p.add_argument("--threads", type=int, help="processor threads (torch's choice by default)")
    p.add_argument("--out", help="CSV file to write")
    return p


def conditions():
    "What the measurements depend on."
    return dict(
        threads=torch.get_num_threads(), torch=torch.__version__, ctdiff=__version__,
        capability=torch.backends.cpu.get_cpu_capability())


def measured(names, about):
    "Rows of the table, printed as they come."
    for name in names:
        print(f"\n{name}: {ROWS[name].__doc__}")
        for what, value, unit in ROWS[name]():
            print(f"  {what:60} {value:10.4g} {unit}", flush=True)
            yield dict(row=name, what=what, value=value, unit=unit) | about


def main():
    "Measure, print and write."
    p = parser()
    a = p.parse_args()
    if a.threads is not None and a.threads < 1: p.error(f"--threads: got {a.threads}, want 1 or more")
    if a.out: check_writable(a.out, ".csv", name="--out")
    if a.threads: torch.set_num_threads(a.threads)
    about = conditions()
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    table = list(measured(a.only or ROWS, about))
    if a.out: save_table(table, a.out)


if __name__ == "__main__":
    main()
