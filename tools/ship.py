"Ship a training run: its averaged weights as ctdiff_edu/weights/NAME.safetensors (fp16) and a model card NAME.md beside it."
import argparse
import csv
import hashlib
from pathlib import Path

from ctdiff_edu.training import export_weights, load_checkpoint, pretrained

WEIGHTS = Path(__file__).resolve().parents[1]/"ctdiff_edu"/"weights"
SOURCES = {
    "ct_patches28.npz": """CT stand-in patches, 36,866 for training: abdominal slices of MedNIST (made available by Dr. B. J. Erickson, Department of Radiology,
  Mayo Clinic, under CC BY-SA 4.0, distributed by Project MONAI) and crops of TotalSegmentator's example volumes `totalseg_example_ct` and `ts_aorta_ct` (Apache-2.0).
  MedNIST names no patients, so training and test patches are split by slice, not by patient.""",
    "phantoms": "procedural phantoms of `ctdiff_edu.data.phantoms`, 8,192 for training.",
}
CARD = """# Model card: {name}

{summary}

| | |
|---|---|
| network | `{module}.{cls}`, {parameters:,} parameters, predicts {prediction}; schedule `{schedule}` |
| file | `{name}.safetensors`, float16, {size:.1f} MB, sha256 `{sha256}` |
| license of the weights | CC BY-SA 4.0 (the code is Apache-2.0) |
| command | `{command}` |
| commit | {commit} |
| training | {step:,} steps of {batch} patches, {hours:.1f} h on {device} |
| recipe | {recipe} |
| last losses | {loss} loss: training {train:.4f}, validation {valid:.4f} ({average}fixed noise) |

## Data

{data}

## Scores

{scores}

Measurement unclipped, scores clipped to [-1,1], data range 2; 95 % bootstrap intervals of the mean over patches. The scores are of the shipped float16 file.

## Use

Teaching and research. It has seen 28x28 patches in the abdominal window (level 50 HU, width 400 HU), values clipped to the window, and noise that is white and Gaussian.
It is not a medical device: do not read a denoised scan for diagnosis.
"""

def table(path):
    "A CSV of scores as a Markdown table."
    rows = list(csv.DictReader(l for l in Path(path).read_text().splitlines() if not l.startswith("#")))
    cell = lambda r, k, d: f"{float(r[k]):.{d}f} [{float(r[k + '_lo']):.{d}f}, {float(r[k + '_hi']):.{d}f}]"
    lines = [f"| {r['patches']}: {r['method']} | {r['n']} | {cell(r, 'psnr', 2)} | {cell(r, 'ssim', 3)} | {r['calls'] or '-'} |" for r in rows]
    return "\n".join(["| set: method | patches | PSNR (dB) | SSIM | calls |", "|---|---|---|---|---|", *lines])

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("checkpoint"); p.add_argument("name"); p.add_argument("--summary", required=True); p.add_argument("--command", required=True)
    p.add_argument("--commit", required=True); p.add_argument("--device", required=True); p.add_argument("--data", action="append", required=True, choices=SOURCES)
    p.add_argument("--before", help="checkpoint with which the run began, if it did not begin at random"); p.add_argument("--scores", nargs=2, action="append", metavar=("CSV", "COMMAND"), default=[], help="a table of `ctdiff evaluate` and the command that made it")
    a = p.parse_args()
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS/f"{a.name}.safetensors"
    about = export_weights(a.checkpoint, path, a.before and load_checkpoint(a.before)[1], license="CC BY-SA 4.0", trained_on=a.data, command=a.command, commit=a.commit)
    model, _ = pretrained(a.name)
    last, content = about["history"][-1], path.read_bytes()
    schedule = about["schedule"]
    (WEIGHTS/f"{a.name}.md").write_text(CARD.format(
        name=a.name, summary=a.summary, command=a.command, commit=a.commit, device=a.device, module=about["model"]["module"],
        cls=about["model"]["cls"], parameters=sum(q.numel() for q in model.parameters()), size=len(content)/1e6, sha256=hashlib.sha256(content).hexdigest(),
        schedule=f"{schedule['cls']}({', '.join(f'{k}={v}' for k, v in schedule['kwargs'].items())})", step=about["step"], batch=about["recipe"]["batch_size"],
        hours=about["seconds"]/3600, recipe="; then ".join(", ".join(f"{k} {v}" for k, v in s["recipe"].items()) + f" ({s['step']:,} steps)" for s in about["stages"]), train=last["train_noise"], valid=last["valid_noise"],
        prediction=dict(z="the noise z", v="v = alpha z - sigma x0")[model.prediction], loss=dict(z="noise", v="v")[model.prediction],
        average="averaged weights, " if about["recipe"]["ema"] else "",
        data="\n".join(f"- {SOURCES[d]}" for d in a.data), scores="\n\n".join(f"`{command}`\n\n{table(path)}" for path, command in a.scores) or "Not scored."))
    print(path, f"{len(content)/1e6:.1f} MB")

if __name__ == "__main__": main()
