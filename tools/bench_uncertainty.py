"""Uncertainty on real slices: python tools/bench_uncertainty.py denoising views lesions [--prior NAME]

denoising: posterior samples of noisy slices in the abdominal window, by the network `small`.
views: samples of reconstructions from 30 views, by DDS with the network `prior`.
lesions: planted at, and removed from, places of test slices, at several views and doses.
One slice of each patient, 128x128 pixels. Draws are kept in RESULTS/runs and not computed again.
"""
import argparse
import hashlib
import json
import math
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ctdiff_edu.data import load_slices, unwindow, window
from ctdiff_edu.evidence import spread_over_skill
from ctdiff_edu.files import save_table, text_table, write_whole
from ctdiff_edu.quality import body_mask
from ctdiff_edu.reconstruction import dds, ray_noise
from ctdiff_edu.sampling import load_network
from ctdiff_edu.scores import interval_columns, mean_interval
from ctdiff_edu.tomography import ParallelBeam, simulate, to_attenuation, to_hu
from ctdiff_edu.uncertainty import (certified_stretch, contrast, covered, denoising_sampler, ensemble,
                                    fit_stretch, place, quiet_places, risk_bound, spread_bins, stretched,
                                    student_interval, verdict, with_contrast)

PIXEL = 350/128   # mm: every slice is scanned as if it were 350 mm wide
SIGMA_N = 0.3     # of [-1,1] in the abdominal window: 60 HU
K = 6             # draws of a noisy slice
K_VIEWS = 5       # and of a scan
SIGMA_Y = 0.01    # noise of a ray without photon noise, as line integral
DDS = dict(steps=16, inner=10)
SCANS = {"60 views": (60, None), "30 views": (30, None), "15 views": (15, None),
         "30 views, 3000 photons": (30, 3e3)}
SIZES, CONTRASTS = (6, 12, 24), (50, 150)   # mm, HU
SEED = 2026


# what is measured

def slices(split):
    "The middle slice of each patient in HU (N,1,128,128), masks of the bodies, and the patients."
    hu, patients = load_slices("ct_slices256.npz", split)
    names = list(dict.fromkeys(patients))
    own = [np.flatnonzero(patients == p) for p in names]
    small = F.avg_pool2d(hu[[i[len(i)//2] for i in own]].clamp(min=-1000), 2)
    masks = [torch.from_numpy(body_mask(x[0].numpy())) for x in small]
    return small, torch.stack(masks)[:, None], np.array(names)


def stream(*about):
    "A generator that hangs on what it is for."
    digest = hashlib.sha256(json.dumps([SEED, *about]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def noisy(x, name):
    "One slice (1,1,H,W) with white noise."
    return x + SIGMA_N*torch.randn(x.shape, generator=stream("noise", name))


def scanned(scan, mu, name):
    "The scanner, the sinogram of one slice, and the noise of its rays."
    views, photons = SCANS[scan]
    A = ParallelBeam(128, views, pixel_mm=PIXEL)
    g = stream("scan", scan, name)
    if photons is None: return A, A(mu) + SIGMA_Y*torch.randn(1, 1, views, A.bins, generator=g), SIGMA_Y
    y = simulate(A, mu, photons, generator=g, say=quietly)
    return A, y, ray_noise(y, photons)


def quietly(line): "What is known beforehand: some rays are starved."


# what is drawn

def kept(folder, about, x, make):
    "An array from its file, or made and kept; the name changes with what it depends on, but for the code."
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode() + x.numpy().tobytes()).hexdigest()[:16]
    path = folder/"runs"/f"{key}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        made = make().numpy()
        write_whole(path, lambda f: np.savez(f, x=made))
        print(f"{about['what']}: {time.perf_counter() - start:.0f} s", flush=True)
    return torch.from_numpy(np.load(path)["x"])


def denoised(net, x, name, folder):
    "Draws (K,1,1,H,W) of one slice in the abdominal window."
    def make(): return ensemble(denoising_sampler(net.D, SIGMA_N), noisy(x, name), K, stream("draws", name))
    return kept(folder, dict(what=f"denoising {name}", k=K, sigma=SIGMA_N, net=net.settings), x, make)


def reconstructed(net, scan, mu, name, folder):
    "Draws (K_VIEWS,1,1,H,W) of one slice in 1/mm; they are made in one batch."
    def make():
        A, y, sigma = scanned(scan, mu, name)
        sigma = sigma if isinstance(sigma, float) else sigma.repeat(K_VIEWS, 1, 1, 1)
        return dds(net.D, A, y.repeat(K_VIEWS, 1, 1, 1), sigma, generator=stream("dds", name), **DDS)[:, None]
    about = dict(what=f"{scan} {name}", k=K_VIEWS, scan=SCANS[scan], sigma=SIGMA_Y, dds=DDS, net=net.settings)
    return kept(folder, about, mu, make)


# coverage

Drawn = namedtuple("Drawn", "draws x0 body patients")   # (K,N,...), (N,...) in HU; bool (N,...); (N,)


def calibrated(task, val, test, about):
    "Rows on coverage and on spread of one task."
    rows = list(_coverage_rows(task, "body", val, test, about))
    all_pixels = (s._replace(body=torch.ones_like(s.body)) for s in (val, test))
    rows += _coverage_rows(task, "everywhere", *all_pixels, about)
    rows += _coverage_rows(task, "means of 8x8", *map(_blocks, (val, test)), about)
    pairs = spread_bins(test.draws, test.x0, test.body)
    return rows, [dict(task=task, spread=spread, error=error) for spread, error in pairs]


def _blocks(drawn, side=8):
    "The same of the means of squares that lie within the body."
    x = F.avg_pool2d(drawn.draws.flatten(0, 1), side).unflatten(0, drawn.draws.shape[:2])
    body = F.avg_pool2d(drawn.body.float(), side) == 1
    return Drawn(x, F.avg_pool2d(drawn.x0, side), body, drawn.patients)


def _coverage_rows(task, region, val, test, about):
    "Before and after the stretch that the validation patients ask for."
    factor, promise = _fitted(val)
    skill = spread_over_skill(test.draws*test.body, test.x0*test.body, test.patients)
    skill = interval_columns("spread", skill)
    about = dict(task=task, region=region, n=len(test.x0), draws=len(test.draws)) | skill | promise | about
    for stretch in (1.0, factor):
        interval = stretched(student_interval(test.draws), stretch)
        inside = covered(interval, test.x0, test.body)
        row = dict(stretch=stretch) | interval_columns("coverage", mean_interval(inside, test.patients))
        yield about | row | {"width (HU)": (interval.hi - interval.lo)[test.body].mean().item()}


def _fitted(val):
    "The stretch of the validation patients, and what can be promised with it."
    interval = student_interval(val.draws)
    fit = dict(x0=val.x0, patients=val.patients, where=val.body)
    factor = fit_stretch(interval, **fit)
    missed = 1 - covered(stretched(interval, factor), val.x0, val.body).mean().item()
    return factor, dict(certified=certified_stretch(interval, **fit), bound=risk_bound(missed, len(val.x0)))


def denoising(folder, a):
    "Noisy slices in the abdominal window."
    net = load_network("small")
    val, test = (noisy_slices(net, split, folder) for split in ("val", "test"))
    save_table([*slice_rows("val", val), *slice_rows("test", test)], folder/"slices-denoising.csv")
    return calibrated("denoising", val, test, about_net(net))


def noisy_slices(net, split, folder, n=None):
    "The first n slices of a split, and draws."
    hu, body, patients = (v[:n] for v in slices(split))
    x0 = window(hu).clamp(-1, 1)
    x = [denoised(net, x0[i:i + 1], str(p), folder) for i, p in enumerate(patients)]
    return Drawn(unwindow(torch.cat(x, 1)), unwindow(x0), body, patients)


def slice_rows(split, drawn):
    "Coverage of each slice in the body, not stretched."
    inside = covered(student_interval(drawn.draws), drawn.x0, drawn.body)
    return [dict(split=split, patient=str(p), coverage=c) for p, c in zip(drawn.patients, inside.tolist())]


def views(folder, a):
    "Slices in HU from 30 views."
    net = load_network(a.prior)
    def drawn(split):
        hu, body, patients = slices(split)
        mu = to_attenuation(hu)
        x = [reconstructed(net, "30 views", mu[i:i + 1], str(p), folder) for i, p in enumerate(patients)]
        return Drawn(to_hu(torch.cat(x, 1)), hu, body, patients)
    return calibrated("30 views", drawn("val"), drawn("test"), about_net(net))


def about_net(net):
    name = Path(net.name).parent.name if "/" in net.name else net.name
    return dict(network=name, weights=f"{name}: {net.about['step']} steps, crc32 {net.settings['crc32']}",
                precision=net.settings["precision"])


# lesions

def with_lesions(hu, body, name):
    "A slice with lesions planted at some places and others made flat; (place, size, contrast) of each."
    g, found, free = stream("places", name), [], torch.where(body, hu, -1000)
    for size in sorted(SIZES, reverse=True):
        radius = size/PIXEL/2
        spots = quiet_places(free, 1 + len(CONTRASTS), math.ceil(radius) + 2, 2*radius + 8, g, most=70)
        order = torch.randperm(1 + len(CONTRASTS), generator=g).tolist()
        found += [(place(128, at, radius), size, (0, *CONTRASTS)[i]) for at, i in zip(spots, order)]
        for at in spots: free = torch.where(place(128, at, radius + 6).disc > 0, -1000, free)
    for at, _, c in found: hu = with_contrast(hu, at, c)
    return hu, found


def asked(draws, fbp, found, about):
    "A row for each place and each contrast that a lesion there might have: was it there, was it seen?"
    for at, size, c in found:
        for threshold in ([c] if c else CONTRASTS):
            seen, p = verdict(draws, at, threshold/2)
            by_fbp = (contrast(fbp, at) > threshold/2).item()
            row = dict(size=size, contrast=threshold, there=int(c > 0), seen=int(seen), p=p.item())
            yield about | row | dict(fbp=int(by_fbp))


def lesions(folder, a):
    "One row for each place."
    net, rows = load_network(a.prior), []
    hu, masks, patients = slices("test")
    for i in range(a.patients):
        name = str(patients[i])
        planted, found = with_lesions(hu[i:i + 1], masks[i:i + 1], name)
        for scan in SCANS:
            mu = to_attenuation(planted)
            x = to_hu(reconstructed(net, scan, mu, name, folder))
            A, y, _ = scanned(scan, mu, name)
            rows += asked(x, to_hu(A.fbp(y)), found, dict(scan=scan, patient=i))
    return rows, about_net(net)


def counted(rows, about):
    "Rates of each scan, size and contrast."
    keys = dict.fromkeys((r["scan"], r["size"], r["contrast"]) for r in rows)
    for scan, size, c in keys:
        of = [r for r in rows if (r["scan"], r["size"], r["contrast"]) == (scan, size, c)]
        yield dict(scan=scan, size=f"{size} mm", contrast=f"{c} HU") | _rates(of) | about


def _rates(of):
    row = {}
    for word, there in (("planted", 1), ("removed", 0)):
        some, end = [r for r in of if r["there"] == there], "" if there else " (removed)"
        row[word] = f"{len(some)} places"
        for key in ("seen", "p", "fbp"): row[NAMES[key] + end] = float(np.mean([r[key] for r in some]))
    return row


NAMES = dict(seen="seen", p="probability", fbp="FBP")


def show(rows, *columns): print(text_table(rows, *columns), flush=True)


def write_coverage(task, folder, a):
    rows, bins = {"denoising": denoising, "views": views}[task](folder, a)
    save_table(rows, folder/f"coverage-{task}.csv")
    save_table(bins, folder/f"spread-{task}.csv")
    show(rows, "task", "region", "n", "stretch", "coverage", "width (HU)", "spread", "certified", "bound")


def write_lesions(folder, a):
    rows, about = lesions(folder, a)
    rows = list(counted(rows, about))
    save_table(rows, folder/"lesions.csv")
    show(rows, *rows[0])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("what", nargs="+", choices=("denoising", "views", "lesions"))
    p.add_argument("--results", default="nbs/results/ct_slices256", help="where tables and draws are written")
    p.add_argument("--prior", default="prior", help="network for whole slices, a name or a file")
    p.add_argument("--patients", type=int, default=12, help="test patients with lesions")
    p.add_argument("--threads", type=int, help="processor threads (torch's choice by default)")
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    for what in a.what:
        if what == "lesions": write_lesions(Path(a.results), a)
        else: write_coverage(what, Path(a.results), a)


if __name__ == "__main__":
    main()
