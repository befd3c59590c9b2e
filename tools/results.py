"""Check nbs/results: recompute the rows that take seconds (`ctdiff reproduce --quick`), compare them with the tables there, and those with what lessons 08 to 10 and README.md print.

A data set that is not on this machine is named and left out; the phantoms always are."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ctdiff_edu.data import load_patches
from ctdiff_edu.results import load_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT/"nbs"/"results"
TOLERANCE = {"psnr": 0.01, "psnr_lo": 0.02, "psnr_hi": 0.02, "ssim": 0.001, "calls": 0}   # float32 against bfloat16, and other processors

def number(v): return 0.0 if v == "-" else float(v)

def compare(folder, data):
    "Lines on what differs between the table in `folder` and a fresh one."
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([sys.executable, "-m", "ctdiff_edu.cli", "reproduce", "--data", data, "--quick", "--out", tmp], check=True, stdout=subprocess.DEVNULL)
        fresh = load_table(Path(tmp)/"leaderboard.csv")
    there = {(r["group"], r["method"]): r for r in load_table(folder/"leaderboard.csv")}
    for r in fresh:
        old = there.get((r["group"], r["method"]))
        if old is None: yield f"{folder.name}: no row {r['group']}, {r['method']}"; continue
        for k, most in TOLERANCE.items():
            if abs(number(r[k]) - number(old[k])) > most: yield f"{folder.name}: {r['group']}, {r['method']}: {k} {old[k]} in the table, {r[k]} recomputed"
    print(f"{data}: {len(fresh)} rows recomputed and compared")

def cells(rows, key):
    "Each row as it is printed: its first cell, PSNR and SSIM with their intervals."
    for r in rows:
        name = r[key] if isinstance(r[key], str) else f"{r[key]:g}"
        yield name, f"{r['psnr']:.2f} [{r['psnr_lo']:.2f}, {r['psnr_hi']:.2f}]", f"{r['ssim']:.3f} [{r['ssim_lo']:.3f}, {r['ssim_hi']:.3f}]"

def printed(text, rows, where, key="method"):
    "Lines on the rows that `text` does not print."
    lines = [" ".join(l.split()) for l in text.splitlines()]
    for row in cells(rows, key):
        if not any(all(c in l for c in row) for l in lines): yield f"{where} does not print: {', '.join(row)}"

def outputs(notebook):
    "All text that a lesson's cells print."
    return "".join("".join(o.get("text", [])) for c in json.loads((ROOT/"nbs"/notebook).read_text())["cells"] for o in c.get("outputs", []))

def problems():
    for folder in sorted(p for p in RESULTS.iterdir() if p.is_dir()):
        data = load_table(folder/"leaderboard.csv")[0]["data"]
        try: load_patches(data, "test")
        except FileNotFoundError: print(f"{data}: not on this machine, its table was not recomputed"); continue
        yield from compare(folder, data)
    lesson = outputs("08_results.ipynb")
    board = load_table(RESULTS/"ct_patches28"/"leaderboard.csv")
    yield from printed(lesson, [r for r in board if r["group"] in ("all", "label 0", "label 1")], "08_results.ipynb")
    for name, key in (("talk", "method"), ("ablation", "method"), ("roles", "method"), ("freq", "lambda_freq")):
        yield from printed(lesson, load_table(RESULTS/"ct_patches28"/f"{name}.csv"), "08_results.ipynb", key)
    yield from printed(outputs("09_solvers.ipynb"), load_table(RESULTS/"ct_patches28"/"solvers.csv"), "09_solvers.ipynb", "calls")
    for name, key in (("network", "network"), ("slices", "method")):
        yield from printed(outputs("10_network.ipynb"), load_table(RESULTS/"ct_patches28"/f"{name}.csv"), "10_network.ipynb", key)
    yield from printed((ROOT/"README.md").read_text(), [r for r in board if r["group"] == "all"], "README.md")

def main():
    os.chdir(ROOT)
    found = list(problems())
    print("\n".join(found) or "tables, lesson and README agree")
    return bool(found)

if __name__ == "__main__":
    sys.exit(main())
