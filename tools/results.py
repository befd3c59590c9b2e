"""Check nbs/results: are the tables what the code makes, of the shipped weights, and what is printed?

Of each data set the rows that take seconds are computed again: all phantoms, the first patches of a file.
Every row of every table must stand in the lesson that shows it, and the leaderboard in README.md.
A data set that is not on this machine is named and left out.
"""
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import bench_uncertainty
import torch

from ctdiff_edu import evidence, grain, results
from ctdiff_edu.data import load_patches, load_slices
from ctdiff_edu.files import TITLES, cell, load_table
from ctdiff_edu.sampling import load_network
from ctdiff_edu.study import Study
from ctdiff_edu.weights import fingerprint, pretrained

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT/"nbs"/"results"
FEW = "first 128"   # a group of the leaderboard
KEYS = {title: key for key, title in TITLES.items()}
SHOWN_IN = {
    "12_network.ipynb": ("slices", "noise", "network"),
    "14_results.ipynb": tuple(results.TABLES),
    "15_comparisons.ipynb": ("solvers",),
    "15_evidence.ipynb": tuple(evidence.TABLES),
    "15_grain.ipynb": tuple(grain.TABLES),
}
SHOWN_OF_SLICES = {
    "17_classical.ipynb": ("classical",),
    "18_reconstruction.ipynb": ("learned", "grid", "large", "sweep"),
    "18_sinogram.ipynb": ("sinogram",),
    "19_uncertainty.ipynb": ("coverage-denoising", "coverage-views", "lesions"),
}
TOLERANCE = {   # other processors round otherwise
    "psnr": 0.002, "psnr_lo": 0.005, "psnr_hi": 0.005,
    "ssim": 0.0002, "ssim_lo": 0.0005, "ssim_hi": 0.0005, "calls": 0,
}


# what the code makes

def recomputed(folder):
    "Lines on what differs between a leaderboard and a fresh one of its quick rows."
    rows = load_table(folder/"leaderboard.csv")
    data, group = rows[0]["data"], quick_group(rows)
    try:
        load_patches(data, "test")
    except FileNotFoundError:
        print(f"{data}: not on this machine, its table was not recomputed")
        return
    there = {r["method"]: r for r in rows if r["group"] == group}
    fresh = quick_rows(rows[0], int(there["noisy"]["n"]))
    print(f"{data}: {len(fresh)} rows recomputed, group {group}")
    for row in fresh:
        yield from differences(row, there.get(row["method"]), f"{folder.name}, {group}, {row['method']}")


def recomputed_slice(stored, tolerance=0.01):
    "Lines on what differs between the coverage of the first slice in a table and that of fresh draws."
    try:
        load_slices("ct_slices256.npz", stored["split"])
    except FileNotFoundError:
        print("ct_slices256.npz: not on this machine, the coverage of its first slice was not recomputed")
        return
    net = load_network("small")
    with tempfile.TemporaryDirectory() as folder:
        drawn = bench_uncertainty.noisy_slices(net, stored["split"], Path(folder), 1)
    fresh, = bench_uncertainty.slice_rows(stored["split"], drawn)
    if fresh["patient"] != stored["patient"] or abs(fresh["coverage"] - stored["coverage"]) > tolerance:
        yield f"slices-denoising: {stored} in the table, {fresh} recomputed"


def quick_group(rows):
    "The group of few images, if the table has one."
    return FEW if any(r["group"] == FEW for r in rows) else "all"


def quick_rows(about, n):
    "The leaderboard's rows that take seconds, on the first n images, under the conditions of a stored row."
    names = ("data", "split", "sigma_n", "precision")
    conditions = {name: about[name] for name in names}
    study = Study(**conditions, seed=int(about["seed"]), limit=n)
    return [row for row in results.leaderboard_table(study, quick=True) if row["group"] == "all"]


def differences(fresh, stored, where):
    "Lines on the columns of a row that differ by more than rounding."
    if stored is None:
        yield f"{where}: no such row in the table"
        return
    for key, most in TOLERANCE.items():
        if abs(fresh[key] - stored[key]) > most:
            yield f"{where}: {key} is {stored[key]} in the table, {fresh[key]} recomputed"


# which weights they are of

def stale(path, shipped):
    "Lines on tables of other weights than those that are shipped."
    for name, crc in sorted(set(re.findall(r"([\w-]+): \d+ steps, crc32 (\w+)", path.read_text()))):
        if crc != shipped(name):
            yield f"{path.parent.name}/{path.name}: made with {name} {crc}, shipped is {shipped(name)}"


def shipped_weights():
    "A function from a name to the fingerprint of its weights, each computed once."
    known = {}
    def shipped(name):
        if name not in known: known[name] = fingerprint(pretrained(name)[0])
        return known[name]
    return shipped


# what is printed

def markdown_tables(text):
    "The tables in a text: each a list of lines, a line a dict of title -> cell."
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.M):
        titles, _, *lines = [[c.strip() for c in line.strip("|").split(" | ")] for line in block.splitlines()]
        yield [dict(zip(titles, line)) for line in lines]


def printed_by(notebook):
    "All Markdown that a lesson's cells print."
    cells = json.loads((ROOT/"nbs"/notebook).read_text())["cells"]
    outputs = [o.get("data", {}).get("text/markdown", "") for c in cells for o in c.get("outputs", [])]
    return "\n\n".join("".join(o) for o in outputs)


def shows(line, row):
    "Is a printed line this row, in all columns that it prints?"
    keys = {title: KEYS.get(title, title) for title in line}
    both = [title for title, key in keys.items() if key in row]
    scores = [keys[title] for title in both if isinstance(row[keys[title]], float)]
    return len(scores) > 2 and all(cell(row, keys[title]) == line[title] for title in both)


def shows_wide(line, row):
    "The same of a table with a column for each method: the cell holds the PSNR, or the SSIM."
    if line.get("noise") != row.get("noise"): return False
    short = re.sub(r"^one call \((.*)\)$", r"\1", row["method"])
    return cell_alone(row, "psnr") in (line.get(row["method"]), line.get(short))


def cell_alone(row, key):
    "A cell without its interval."
    return cell({key: row[key]}, key)


def missing(rows, text, where):
    "Lines on the rows that a text does not print."
    lines = [line for table in markdown_tables(text) for line in table]
    wide = "noise" in rows[0] and "told" in rows[0]
    for row in rows:
        if wide and not_a_column(row["method"], lines): continue
        if not any((shows_wide if wide else shows)(line, row) for line in lines):
            yield f"{where} does not print: {description(row)}"


def not_a_column(method, lines):
    "Is a method left out of a lesson's wide tables altogether?"
    short = re.sub(r"^one call \((.*)\)$", r"\1", method)
    return not any(method in line or short in line for line in lines)


def description(row):
    "Enough of a row to find it."
    keys = ("group", "noise", "network", "method", "use", "arm", "told", "calls", "psnr", "ssim")
    return ", ".join(cell(row, key) for key in keys if key in row)


# all of it

def problems():
    "Lines on everything that does not agree."
    for board in sorted(RESULTS.glob("*/leaderboard.csv")): yield from recomputed(board.parent)
    yield from recomputed_slice(load_table(RESULTS/"ct_slices256"/"slices-denoising.csv")[0])
    shipped = shipped_weights()
    for path in sorted(RESULTS.glob("*/*.csv")): yield from stale(path, shipped)
    for lesson, names in SHOWN_IN.items():
        text = printed_by(lesson)
        for name in names: yield from unprinted(name, text, lesson)
    for lesson, names in SHOWN_OF_SLICES.items():
        text = printed_by(lesson)
        for name in names: yield from unprinted(name, text, lesson, "ct_slices256")
    board = load_table(RESULTS/"ct_patches28"/"leaderboard.csv")
    readme = (ROOT/"README.md").read_text()
    yield from missing([r for r in board if r["group"] == "all"], readme, "README.md")


def unprinted(name, text, lesson, data="ct_patches28"):
    "Lines on the rows of one table that its lesson does not print; a table that was never made is named."
    path = RESULTS/data/f"{name}.csv"
    if path.exists():
        yield from missing(load_table(path), text, lesson)
    else:
        print(f"{name}: no such table has been made")


def main():
    "Print what does not agree; the exit code is 1 if something does not."
    os.chdir(ROOT)
    torch.set_num_threads(1)
    found = list(problems())
    print("\n".join(found) or "tables, lessons and README agree")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
