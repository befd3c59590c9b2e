"""The learned prior at work, measured: python tools/bench_prior.py views grid large sweep posterior

views: 15, 30, 60 views, and 30 with photon noise; tuned on val slices, then test slices (learned.csv).
grid: without inverse crime: sinograms of a twice finer grid, by another projector (grid.csv).
large: 256x256 at 30 views, three slices, with seconds a slice (large.csv).
sweep: 8 to 180 views, TV and the learned prior, one slice of each test patient (sweep.csv).
posterior: each method against the exact posterior of a Gaussian prior (posterior.csv).
TV alone, which takes longest, can be computed before: add --tv.
Finished parts are kept in RESULTS/runs and not computed again.
"""
import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench_ct import _spaced, scanned

from ctdiff_edu.classical import tv_pdhg
from ctdiff_edu.data import load_slices, window
from ctdiff_edu.files import save_table, text_table, write_whole
from ctdiff_edu.reconstruction import (Measured, cloud_prior, dds, dps, exact_posterior, from_unit, hqs, mmps,
                                       ray_noise, to_unit)
from ctdiff_edu.sampling import ancestral, load_network
from ctdiff_edu.scores import interval_columns, mean_interval, psnr, ssim
from ctdiff_edu.tomography import WATER, ParallelBeam, to_attenuation, to_hu

FIELD = 350                             # mm: every slice is scanned as if it were so wide
PHOTONS = 3e3
NOISY = "30 views, 3000 photons"
SWEEP = (8, 15, 30, 60, 120, 180)
TV_RUN = dict(steps=3000, tol=0.01)
LARGE_RUN = dict(steps=1000, tol=0.01)

# tried on val; sigma is the noise that is assumed where there is none
SHORT = dict(sigma=1e-3, steps=20, first=0.2, last=0.005)
LONG = dict(sigma=1e-3, steps=40, first=0.7, last=0.005)
MANY = dict(sigma=3e-4, steps=20, first=0.1, last=0.001)   # of three the best on val at 120 and 180
SETTINGS = {
    "15 views": [SHORT, LONG], "30 views": [SHORT, LONG], "60 views": [SHORT, SHORT | dict(last=0.002)],
    NOISY: [dict(lam=v, steps=30, first=0.7, last=0.01) for v in (0.3, 0.1, 0.03)]}
OTHER = [dict(sigma=s, steps=20, first=0.5, last=0.005) for s in (3e-3, 1e-2)]
OTHER_TV = (1e-2, 3e-2, 1e-1, 3e-1)
LARGE_TV = 3e-3                         # mm
SWEEP_TV = 1e-3                         # mm; within 0.4 dB of the best at 15, 30 and 60 views on val


def fine_slices(split, most):
    "HU (N,1,256,256) of at most so many slices a patient, evenly spaced, and the patients."
    hu, patients = load_slices("ct_slices256.npz", split)
    own = [np.flatnonzero(patients == p) for p in dict.fromkeys(patients)]
    keep = [i for o in own for i in (_spaced(o) if most == 3 else o[[len(o)//2]][:most])]
    return hu[keep].clamp(min=-1000), patients[keep]


def ray_sums(x, views, bins, field=FIELD, rays=4):
    "Line integrals (B,1,views,bins) by points on rays, bilinear in between; `rays` in each bin."
    n, width = x.shape[-1], field/128
    detector = ((torch.arange(bins*rays) + 0.5)/rays - bins/2)*width
    along = (torch.arange(3*n) + 0.5 - 1.5*n)/(3*n)*1.5*field
    made = []
    for a in range(views):
        c, s = math.cos(math.pi*a/views), math.sin(math.pi*a/views)
        across = torch.stack([c*detector[:, None] - s*along, -s*detector[:, None] - c*along], 2)/(field/2)
        line = F.grid_sample(x, across.expand(len(x), -1, -1, -1), align_corners=False).sum(3)
        made.append(line.unflatten(2, (bins, rays)).mean(3)*1.5*field/(3*n))
    return torch.stack(made, 2)


class Case:
    "Slices, their scan, and what a method may know of it."
    def __init__(self, name, split, most=3, patients=None):
        self.name, self.split, self.most = name, split, most
        hu, self.patients = (v[:patients] for v in fine_slices(split, most))
        size, views = 256 if "256" in name else 128, int(name.split()[0])
        self.x = to_attenuation(hu if size == 256 else F.avg_pool2d(hu, 2))
        self.photons = PHOTONS if "photons" in name else None
        self.A = ParallelBeam(size, views, pixel_mm=FIELD/size)
        if "other grid" in name: self.y = ray_sums(to_attenuation(hu), views, self.A.bins)
        elif self.photons: self.y = scanned(NOISY, self.x)[1]
        else: self.y = self.A(self.x)

    def sigma(self, setting):
        "Noise of the rays: known from the counts, or assumed."
        return ray_noise(self.y, self.photons) if self.photons else setting["sigma"]


def by_prior(case, net, setting):
    "Images by half-quadratic splitting."
    how = {k: v for k, v in setting.items() if k != "sigma"}
    parts = [slice(i, i + 9) for i in range(0, len(case.y), 9)]
    made = []
    for p in parts:
        sigma = case.sigma(setting)
        made.append(hqs(net.D, case.A, case.y[p], sigma[p] if torch.is_tensor(sigma) else sigma, **how))
    return torch.cat(made), torch.zeros(len(case.y))


def by_tv(case, lam):
    done = tv_pdhg(case.A, case.y, lam, **(LARGE_RUN if case.A.size == 256 else TV_RUN))
    return done.x, done.gap


def kept(case, about, make, folder):
    "Scores per slice, kept in a file whose name holds all that they depend on, but for the code."
    about = json.dumps([case.name, case.split, case.most, about])
    key = hashlib.sha256(about.encode() + case.y.numpy().tobytes()).hexdigest()[:16]
    path = folder/"runs"/f"{key}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        image, gap = make()
        made = scored(case.x, image, gap) | dict(seconds=(time.process_time() - start)/len(image))
        write_whole(path, lambda f: np.savez(f, **made))
        print(f"{about}: {made['psnr'].mean():.2f} dB, {made['seconds']:.1f} s a slice", flush=True)
    return dict(np.load(path))


def scored(x, image, gap):
    wide, truth = (window(to_hu(v), 0, 2000) for v in (image, x))
    rms = (image - x).double().square().mean((1, 2, 3)).sqrt()*1000/WATER
    return dict(psnr=psnr(wide, truth), ssim=ssim(wide, truth), rms=rms, gap=gap)


def prior_scores(case, net, setting, folder):
    return kept(case, [net.settings | dict(weights=""), setting],
                lambda: by_prior(case, net, setting), folder)


def tuned(name, settings, run, tuning, method):
    "The setting that is best on val; what was tried is added to the table."
    case = Case(name, "val")
    tried = [(float(run(case, s)["psnr"].mean()), s) for s in settings]
    tuning += [dict(scan=name, method=method, setting=words(s), psnr=v) for v, s in tried]
    return max(tried, key=lambda pair: pair[0])[1]


def words(setting):
    "A setting as text."
    if isinstance(setting, float): return f"{setting:g} mm"
    return ", ".join(f"{k} {v.__name__ if callable(v) else format(v, 'g')}" for k, v in setting.items())


def row(case, method, s, setting, weights, base=None):
    "A line of a table; `base`: scores of the same slices, of which the paired gain is given."
    made = dict(scan=case.name, method=method, n=len(case.x))
    for name, key in (("psnr", "psnr"), ("ssim", "ssim"), ("rms (HU)", "rms")):
        made |= interval_columns(name, mean_interval(s[key], case.patients))
    if base is not None:
        gain = mean_interval(s["psnr"] - base["psnr"], case.patients)
        made |= interval_columns("over TV (dB)", gain)
    other = {"gap (%)": 100*float(s["gap"].max()), "seconds": float(s["seconds"])}
    return made | other | dict(setting=words(setting), weights=weights)


def name_of(net):
    about = net.settings
    return f"{net.name}: {net.about['step']} steps, crc32 {about['crc32']}, {about['precision']}"


def views(net, folder, scans=tuple(SETTINGS)):
    "Write learned-tuning.csv (val) and learned.csv (test)."
    tuning, rows = [], []
    def run(case, setting): return prior_scores(case, net, setting, folder)
    for scan in scans:
        best = tuned(scan, SETTINGS[scan], run, tuning, "learned prior")
        case = Case(scan, "test")
        rows.append(row(case, "learned prior", run(case, best), best, name_of(net)))
        save_table(tuning, folder/"learned-tuning.csv")
        save_table(rows, folder/"learned.csv")
    show(rows)


def tv_scores(case, lam, folder):
    return kept(case, ["TV", lam, TV_RUN], lambda: by_tv(case, lam), folder)


def grid(net, folder):
    "Write grid-tuning.csv and grid.csv: without inverse crime."
    tuning, rows = [], []
    def run(case, setting): return prior_scores(case, net, setting, folder)
    def run_tv(case, lam): return tv_scores(case, lam, folder)
    for scan in ("30 views, other grid", "15 views, other grid"):
        case, lam = Case(scan, "test", 1), tuned(scan, OTHER_TV, run_tv, tuning, "TV")
        base = run_tv(case, lam)
        if net is None: continue
        best = tuned(scan, OTHER, run, tuning, "learned prior")
        rows += pair(case, base, lam, run(case, best), best, net)
        save_table(tuning, folder/"grid-tuning.csv")
        save_table(rows, folder/"grid.csv")
    show(rows)


def large(net, folder):
    "Write large.csv: 256x256, with the settings that are best for 128x128."
    case = Case("30 views, 256x256", "test", 1, 3)
    base = tv_scores(case, LARGE_TV, folder)
    if net is None: return
    rows = list(pair(case, base, LARGE_TV, prior_scores(case, net, SHORT, folder), SHORT, net))
    save_table(rows, folder/"large.csv")
    show(rows)


def sweep(net, folder):
    "Write sweep.csv: from 8 views to 120."
    rows = []
    for n in SWEEP:
        case = Case(f"{n} views", "test", 1)
        base = tv_scores(case, SWEEP_TV, folder)
        if net is None: continue
        setting = LONG if n < 60 else SHORT if n < 120 else MANY
        rows += pair(case, base, SWEEP_TV, prior_scores(case, net, setting, folder), setting, net)
        save_table(rows, folder/"sweep.csv")
    show(rows)


def pair(case, base, lam, learned, setting, net):
    "The lines of TV and of the learned prior, with the paired gain."
    yield row(case, "TV", base, lam, "", base)
    yield row(case, "learned prior", learned, setting, name_of(net), base)


def posterior(net, folder):
    "Write posterior.csv: 64x64 clouds, 30 views, samples of each of three scans."
    prior, A, sigma, k = cloud_prior(64), ParallelBeam(64, 30, pixel_mm=FIELD/64), 0.02, 12
    truth = prior.sample(3, torch.Generator().manual_seed(0))
    noise = torch.randn(3, 1, 30, A.bins, generator=torch.Generator().manual_seed(1))
    y = A(from_unit(truth)) + sigma*noise
    exact = Exact(A, truth, *exact_posterior(prior, Measured(A, y, sigma)))
    rows, D = [exact.row("FBP", to_unit(A.fbp(y))[None], "", 0)], single(prior)
    for method, how in POSTERIOR:
        images, start = 1 if method is hqs else k, time.perf_counter()
        g = torch.Generator().manual_seed(2)
        made = method(D, A, y.repeat(images, 1, 1, 1), sigma, generator=g, **how)
        took = (time.perf_counter() - start)/len(made)
        rows.append(exact.row(TITLES[method], to_unit(made).unflatten(0, (images, 3)), words(how), took))
        print(rows[-1], flush=True)
        save_table(rows, folder/"posterior.csv")
    rows.append(exact.row("exact samples", exact.draws(k), "", 0))
    save_table(rows, folder/"posterior.csv")
    print(text_table(rows))


def single(prior):
    "The denoiser of a Gaussian prior with mean 0 in single precision: three times as fast."
    basis, lam = prior.basis.float(), prior.lam.float()
    def D(x, s): return ((x.flatten(1) @ basis*(lam/(lam + s**2))) @ basis.T).reshape(x.shape)
    return D


class Exact:
    "A known posterior, and how samples of it are graded."
    def __init__(self, A, truth, mean, S):
        self.truth, self.mean, self.S, self.side = truth, mean, S, truth.shape[-1]
        _, _, V = A.svd()
        self.V = V     # (d,rank): what is measured
        self.whole, self.seen = S.trace(), (V*(S @ V)).sum()

    def draws(self, k):
        "Samples (k,3,1,H,W) of the posterior itself."
        g = torch.Generator().manual_seed(3)
        z = torch.randn(k, len(self.mean), len(self.S), generator=g, dtype=torch.float64)
        root = torch.linalg.cholesky(self.S + 1e-12*torch.eye(len(self.S)))
        return self.mean + (z @ root.T).reshape(k, *self.mean.shape)

    def row(self, method, x, setting, took):
        "x: (k,3,1,H,W). The mean's error is given in standard deviations of the posterior."
        k, mean = len(x), x.double().mean(0)
        off = ((mean - self.mean).square().sum((1, 2, 3)).mean()/self.whole).sqrt().item()
        made = dict(method=method, setting=setting, samples=k, off=off) | {"seconds": took}
        if k == 1: return made | dict(seen="-", silent="-", coverage="-")
        spread = x.double().var(0).flatten(1)   # (3,d)
        off_mean = (x.double() - mean).flatten(2)
        seen = ((off_mean @ self.V).square().sum((0, 2))/(k - 1)).mean()
        silent = spread.sum(1).mean() - seen
        z = 1.645*(1 + 1/k)**0.5
        inside = (self.truth.flatten(1) - mean.flatten(1)).abs() <= z*spread.sqrt()
        return made | dict(seen=(seen/self.seen).item(), silent=(silent/(self.whole - self.seen)).item(),
                           coverage=inside.double().mean().item())


TITLES = {hqs: "HQS", dds: "DDS", dps: "DPS", mmps: "moment matching"}
WIDE = dict(first=10.0, last=0.01)
POSTERIOR = [
    (hqs, dict(steps=5, first=1.0, last=0.02)), (hqs, dict(steps=20, first=1.0, last=0.02)),
    (hqs, dict(steps=80, first=1.0, last=0.02)),
    (dds, dict(steps=50, **WIDE)), (dds, dict(steps=50, gamma=0.01, **WIDE)),
    (dps, dict(steps=150, zeta=0.005, **WIDE)), (dps, dict(steps=150, zeta=0.02, **WIDE)),
    (mmps, dict(steps=30, inner=20, solver=ancestral, **WIDE)),
    (mmps, dict(steps=30, inner=5, **WIDE)), (mmps, dict(steps=30, inner=20, **WIDE)),
]


def show(rows):
    for r in rows: print(text_table([r], *(c for c in r if not c.endswith(("_lo", "_hi")))))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = dict(views=views, grid=grid, large=large, sweep=sweep, posterior=posterior)
    p.add_argument("what", nargs="+", choices=parts)
    p.add_argument("--weights", default="prior")
    p.add_argument("--results", default="nbs/results/ct_slices256", help="where the tables are written")
    p.add_argument("--tv", action="store_true", help="compute what TV needs only")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    net = None if a.tv or a.what == ["posterior"] else load_network(a.weights)
    for what in a.what: parts[what](net, Path(a.results))


if __name__ == "__main__":
    main()
