"""Diffusion in the sinogram, measured: python tools/bench_sinogram.py

15, 30 and 60 of 180 views, without noise, one slice of each patient; tuned on val, then test. Writes
sinogram-tuning.csv and sinogram.csv into RESULTS. The rows of TV and of the learned prior on images are those
of sweep.csv, which tools/bench_prior.py makes of the same slices.
"""
import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from bench_ct import TAPERS
from bench_prior import fine_slices, name_of, scored, words

from ctdiff_edu.classical import cg_least_squares
from ctdiff_edu.files import load_table, save_table, text_table
from ctdiff_edu.sampling import load_network
from ctdiff_edu.scores import interval_columns, mean_interval
from ctdiff_edu.sinogram_prior import (VIEWS, around, every, fill_views, interpolate_views, out_of_range,
                                       sample_views)
from ctdiff_edu.tomography import to_attenuation

APART = (12, 6, 3)                    # every so many-th view is measured
FILLS = [dict(first=a, last=0.001) for a in (0.1, 0.03, 0.01)]
DRAWS = dict(first=0.1, last=0.001)
CG = (5, 10, 15, 20, 40, 80)
ROWS, OUTSIDE = "row error (%)", "out of range (%)"


class Slices:
    "One slice of each patient, and its sinogram of all views."
    def __init__(self, split):
        hu, self.patients = fine_slices(split, 1)
        self.x = to_attenuation(F.avg_pool2d(hu, 2))
        self.A, self.p = every(), every()(self.x)

    def scores(self, image): return scored(self.x, image, torch.zeros(len(self.x)))

    def row_error(self, q, k):
        "Root mean square error of the missing rows over that of the rows (%), of each slice."
        missing = torch.arange(VIEWS) % k > 0
        square = [v[:, :, missing].square().mean((1, 2, 3)) for v in (q - self.p, self.p)]
        return 100*(square[0]/square[1]).sqrt().double()


def image_of(A, q, how):
    "An image of a sinogram: a taper of FBP, or a number of steps of conjugate gradients."
    return A.fbp(q, TAPERS[how]) if how in TAPERS else cg_least_squares(A, q, int(how.split()[0]))


def tuned_image(s, A, q, kind):
    "The taper or the number of steps that is best on val."
    tried = TAPERS if kind == "FBP" else [f"{n} steps" for n in CG]
    scores = {how: s.scores(image_of(A, q, how))["psnr"].mean().item() for how in tried}
    return max(scores, key=scores.get)


def tuned_fill(D, s, k, tuning):
    "The levels with which the missing rows are best on val, and these rows."
    tried = []
    for setting in FILLS:
        q = fill_views(D, s.p[:, :, ::k], k, **setting)
        tried.append((s.row_error(q, k).mean().item(), len(tried), setting, q))
        tuning.append(dict(scan=f"{VIEWS//k} views", setting=words(setting)) | {ROWS: tried[-1][0]})
    return min(tried)[2:]


def row(s, scan, method, image, setting, weights, q=None, k=1):
    "A line of the table."
    made, scores = dict(scan=scan, method=method, n=len(s.x)), s.scores(image)
    for name, key in (("psnr", "psnr"), ("ssim", "ssim"), ("rms (HU)", "rms")):
        made |= interval_columns(name, mean_interval(scores[key], s.patients))
    rows = s.row_error(q, k).mean().item() if k > 1 else "-"
    outside = 100*out_of_range(s.A, q).mean().item() if q is not None else "-"
    return made | {ROWS: rows, OUTSIDE: outside, "setting": setting, "weights": weights}


def compared(D, val, test, k, weights, tuning):
    "Lines of the table for one number of views."
    scan, A, y = f"{VIEWS//k} views", every(k), test.p[:, :, ::k]
    best = tuned_image(val, A, val.p[:, :, ::k], "FBP")
    yield row(test, scan, "FBP", image_of(A, y, best), best, "")
    linear = interpolate_views(val.p[:, :, ::k], k)
    yield from completed(val, test, k, "linear", linear, interpolate_views(y, k))
    levels, on_val = tuned_fill(D, val, k, tuning)
    q = fill_views(D, y, k, **levels)
    yield from completed(val, test, k, "diffusion", on_val, q, f"first {levels['first']:g}, ", weights)
    if k == 6: yield from by_draws(D, test, k, y, weights)


def completed(val, test, k, method, on_val, q, about="", weights=""):
    "Lines for a completed sinogram: images by FBP and by conjugate gradients."
    for kind in ("FBP", "CG"):
        best = tuned_image(val, val.A, on_val, kind)
        image = image_of(test.A, q, best)
        yield row(test, f"{VIEWS//k} views", f"{method}, {kind}", image, about + best, weights, q, k)


def by_draws(D, test, k, y, weights, n=4):
    "Lines for one draw of the missing rows, and for the mean of several."
    draws = [sample_views(D, y, k, generator=torch.Generator().manual_seed(i), **DRAWS) for i in range(n)]
    for name, q in (("one draw", draws[0]), (f"mean of {n} draws", torch.stack(draws).mean(0))):
        setting = f"first {DRAWS['first']:g}, ramp"
        yield row(test, f"{VIEWS//k} views", f"{name}, FBP", test.A.fbp(q), setting, weights, q, k)


def others(scan, stored):
    "What methods on images make of the same views."
    for r in stored:
        if r["scan"] != scan: continue
        taken = {c: v for c, v in r.items() if c.startswith(("scan", "method", "n", "psnr", "ssim", "rms"))}
        yield taken | {ROWS: "-", OUTSIDE: "-", "setting": r["setting"], "weights": r["weights"]}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--weights", default="sinogram")
    p.add_argument("--results", default="nbs/results/ct_slices256", help="where the tables are written")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    net, folder = load_network(a.weights), Path(a.results)
    D, val, test = around(net.D), Slices("val"), Slices("test")
    rows, tuning, stored = [], [], load_table(folder/"sweep.csv")
    for kind in ("FBP", "CG"):
        best = tuned_image(val, val.A, val.p, kind)
        image = image_of(test.A, test.p, best)
        rows.append(row(test, f"{VIEWS} views", f"all views, {kind}", image, best, "", test.p))
    for k in APART:
        rows += [*compared(D, val, test, k, name_of(net), tuning), *others(f"{VIEWS//k} views", stored)]
        save_table(tuning, folder/"sinogram-tuning.csv")
        save_table(rows, folder/"sinogram.csv")
        print(text_table(rows, "scan", "method", "psnr", ROWS, OUTSIDE, "setting"), flush=True)


if __name__ == "__main__":
    main()
