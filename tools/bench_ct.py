"""The CT part, measured: python tools/bench_ct.py speed memory classical [--results DIR] [--out TABLE.csv]

speed: forward plus adjoint at 128x128, 60 views, batch 16, against scikit-image and deepinv (if installed).
memory: peak memory of a process that makes 256x256 pixels and 180 views, and uses both matrices.
classical: FBP and TV at 15, 30, 60 views, and at 30 with photon noise: tuned on val slices, then test slices.
Finished parts of `classical` are kept in RESULTS/runs and not computed again.
"""
import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ctdiff_edu.classical import tv_pdhg
from ctdiff_edu.data import load_slices, window
from ctdiff_edu.files import save_table, text_table, write_whole
from ctdiff_edu.scores import interval_columns, mean_interval, psnr, ssim
from ctdiff_edu.tomography import (WATER, ParallelBeam, cosine, half_turn, hann, phantom_slices, shepp_logan,
                                   simulate, to_attenuation, to_hu)


def hann_to(share):
    "Hann's taper that is 0 from a share of the largest frequency on."
    return lambda u: torch.where(u < share, hann(u/share), 0.0)


PIXEL = 350/128                         # mm: every slice is scanned as if it were 350 mm wide
SCANS = {"15 views": (15, None), "30 views": (30, None), "60 views": (60, None),
         "30 views, 3000 photons": (30, 3e3)}
TAPERS = {"ramp": None, "Shepp-Logan": shepp_logan, "cosine": cosine, "Hann": hann}
TAPERS |= {f"Hann to {share:g}": hann_to(share) for share in (0.8, 0.65, 0.5, 0.4, 0.3)}
LAMBDAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # mm, without noise
NOISY_LAMBDAS = (0.012, 0.025, 0.05, 0.1, 0.2)
MOST = 3                                # slices of a test patient
TV_RUN = dict(steps=3000, tol=0.01)     # until the duality gap is at most 1 % of the value


def seconds(f, rounds=5):
    "Median seconds of a call, after one that does not count."
    f()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def speed():
    "Rows (what, value, unit) of one run with one thread."
    torch.set_num_threads(1)
    x = to_attenuation(phantom_slices(8)).repeat(2, 1, 1, 1)
    A = ParallelBeam(128, 60)
    ours = seconds(lambda: A.adjoint(A(x)))
    yield "forward + adjoint, 16 images of 128x128, 60 views", 1000*ours, "ms"
    theirs = _scikit_image(x)
    yield "scikit-image radon + iradon without filter", 1000*theirs, "ms"
    yield "faster than scikit-image", theirs/ours, "times"
    other = _deepinv(x)
    if other is None:
        yield "deepinv is not installed: not run", float("nan"), ""
        return
    yield "deepinv Tomography, A + A_adjoint", 1000*other, "ms"
    yield "faster than deepinv", other/ours, "times"


def _scikit_image(x):
    from skimage.transform import iradon, radon
    degrees = half_turn(60).rad2deg().numpy()
    images = x[:, 0].double().numpy()

    def run():
        for image in images: iradon(radon(image, degrees), degrees, filter_name=None)
    return seconds(run, rounds=3)


def _deepinv(x):
    "Seconds, or None without it. The torchvision that it imports need not fit this torch, and is not used."
    sys.meta_path.insert(0, _Pretender())
    try:
        from deepinv.physics import Tomography
    except ImportError:
        return None
    physics = Tomography(angles=60, img_width=128, normalize=False, parallel_computation=True)
    y = physics.A(x)
    return seconds(lambda: (physics.A(x), physics.A_adjoint(y)), rounds=3)


class _Pretender:
    "Stands in for torchvision."
    def find_spec(self, name, path=None, target=None):
        from importlib.machinery import ModuleSpec
        if name.split(".")[0] == "torchvision": return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        from unittest.mock import MagicMock
        module = MagicMock()
        module.__path__, module.__name__, module.__version__ = [], spec.name, "0"
        return module

    def exec_module(self, module): pass


def memory():
    "Rows of a process of its own; Linux only."
    code = ("import re, torch; from ctdiff_edu.tomography import ParallelBeam\n"
            "status = '/proc/self/status'\n"
            "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open(status).read())[1])/1024\n"
            "before = peak(); A = ParallelBeam(256, 180); x = torch.ones(1, 1, 256, 256)\n"
            "A.adjoint(A(x)); print(before, peak())")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, after = map(float, out.split())
    yield "256x256, 180 views: peak memory of the process", after, "MB"
    yield "of which before the scanner", before, "MB"


def slices(split):
    "Attenuation (N,1,128,128) of at most MOST slices a patient, evenly spaced, and the patients."
    hu, patients = load_slices("ct_slices256.npz", split)
    keep = [i for p in dict.fromkeys(patients) for i in _spaced(np.flatnonzero(patients == p))]
    return to_attenuation(F.avg_pool2d(hu[keep].clamp(min=-1000), 2)), patients[keep]


def _spaced(own):
    n = min(len(own), MOST)
    return own[((np.arange(n) + 0.5)*len(own)/n).astype(int)]


def scanned(scan, x):
    "The scanner, its sinograms, and the weights of its rays."
    views, photons = SCANS[scan]
    A = ParallelBeam(128, views, pixel_mm=PIXEL)
    if photons is None: return A, A(x), None
    y = simulate(A, x, photons, generator=torch.Generator().manual_seed(2026))
    arrived = torch.exp(-y)
    return A, y, arrived/arrived.mean((1, 2, 3), keepdim=True)


def reconstructed(scan, method, setting, x):
    "Image (N,1,128,128) and relative gap (N,) of a method at a setting."
    A, y, weight = scanned(scan, x)
    if method == "FBP": return A.fbp(y, TAPERS[setting]), torch.zeros(len(x))
    done = tv_pdhg(A, y, setting, weight=weight, **TV_RUN)
    return done.x, done.gap


def scores(scan, method, setting, split, folder):
    "Scores per slice, kept in a file whose name holds all that they depend on."
    x, patients = slices(split)
    path = folder/"runs"/f"{_key(scan, method, setting, split, x)}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        made = _scored(x, *reconstructed(scan, method, setting, x))
        write_whole(path, lambda f: np.savez(f, **made))
        took = time.perf_counter() - start
        print(f"{split}, {scan}, {method} {setting}: {made['psnr'].mean():.2f} dB, {took:.0f} s", flush=True)
    return dict(np.load(path)), patients


def _key(scan, method, setting, split, x):
    "Changes with all that a score depends on, but for the code."
    about = [scan, SCANS[scan], method, setting, split, MOST, TV_RUN if method == "TV" else 0]
    return hashlib.sha256(json.dumps(about).encode() + x.numpy().tobytes()).hexdigest()[:16]


def _scored(x, image, gap):
    wide, truth = (window(to_hu(v), 0, 2000) for v in (image, x))
    rms = (image - x).double().square().mean((1, 2, 3)).sqrt()*1000/WATER
    return dict(psnr=psnr(wide, truth), ssim=ssim(wide, truth), rms=rms, gap=gap)


def classical(folder):
    "Write classical-tuning.csv (val) and classical.csv (test)."
    tuning = []
    for scan, (_, photons) in SCANS.items():
        settings = [("FBP", t) for t in TAPERS]
        settings += [("TV", lam) for lam in (LAMBDAS if photons is None else NOISY_LAMBDAS)]
        for method, setting in settings:
            s, _ = scores(scan, method, setting, "val", folder)
            tuning.append(dict(scan=scan, method=method, **_setting(setting), psnr=float(s["psnr"].mean())))
    save_table(tuning, folder/"classical-tuning.csv")
    rows = [_test_row(scan, method, tuning, folder) for scan in SCANS for method in ("FBP", "TV")]
    save_table(rows, folder/"classical.csv")
    print(text_table(rows, "scan", "method", "n", "psnr", "ssim", "rms (HU)", "setting", "gap (%)"))


def _setting(setting):
    "A taper by its name, a weight as number and as text."
    if isinstance(setting, str): return dict(setting=setting, lam=0.0)
    return dict(setting=f"{setting:g} mm", lam=setting)


def _test_row(scan, method, tuning, folder):
    tried = [r for r in tuning if (r["scan"], r["method"]) == (scan, method)]
    best = max(tried, key=lambda r: r["psnr"])
    setting = best["setting"] if method == "FBP" else best["lam"]
    s, patients = scores(scan, method, setting, "test", folder)
    row = dict(scan=scan, method=method, n=len(patients))
    for name, key in (("psnr", "psnr"), ("ssim", "ssim"), ("rms (HU)", "rms")):
        row |= interval_columns(name, mean_interval(s[key], patients))
    return row | _setting(setting) | {"gap (%)": 100*float(s["gap"].max())}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("what", nargs="+", choices=("speed", "memory", "classical"))
    p.add_argument("--results", default="nbs/results/ct_slices256", help="where classical writes")
    p.add_argument("--out", help="CSV file for speed and memory")
    p.add_argument("--threads", type=int, help="processor threads (torch's choice by default)")
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    rows = []
    measures = {"speed": speed, "memory": memory}
    for what in a.what:
        if what == "classical": classical(Path(a.results))
        else: rows += [dict(what=w, value=v, unit=u) for w, v, u in measures[what]()]
    for r in rows: print(f"{r['what']}: {r['value']:.4g} {r['unit']}")
    if rows and a.out: save_table(rows, a.out)


if __name__ == "__main__":
    main()
