"Ship a run: weights (fp16; the averaged ones, if any) as ctdiff_edu/weights/NAME.safetensors, and a card."
import argparse
import hashlib
from pathlib import Path

from ctdiff_edu.files import load_table, markdown_table
from ctdiff_edu.weights import CLASSES, export_weights, load_checkpoint, pretrained

WEIGHTS = Path(__file__).resolve().parents[1]/"ctdiff_edu"/"weights"
LICENSE = "CC BY 4.0"
TCIA = """public collections of The Cancer Imaging Archive, by patient (TCGA-LUAD, TCGA-LUSC,
  TCGA-LIHC, TCGA-OV, LIDC-IDRI, CPTAC-PDA: CC BY 3.0; CMB-CRC: CC BY 4.0); every image with its DOI stands in
  `ctdiff_edu/ct/manifest.csv`, and `ctdiff fetch ct` gets them"""
SOURCES = {
    "ct_patches28.npz": "CT stand-in patches, 36,000 of 41 patients (validation: 1,500 of 7): " + TCIA,
    "abdomen:ct_slices256.npz": "squares of 454 slices of 33 patients, -150 to 250 HU: " + TCIA,
    "crops:ct_slices256.npz": "crops of 454 slices of 33 patients, -1000 to 1000 HU: " + TCIA,
    "sinograms:ct_slices256.npz": "crops of sinograms of 454 slices of 33 patients, 180 views: " + TCIA,
    "phantoms": "procedural phantoms of `ctdiff_edu.data.phantoms`, 8,192 for training.",
}
CARD = """# Model card: {name}

{summary}

| | |
|---|---|
| network | `{network}`, {parameters:,} parameters, predicts {prediction}; schedule `{schedule}` |
| file | `{name}.safetensors`, float16, {size:.1f} MB, sha256 `{sha256}` |
| license of the weights | {license} (the code is Apache-2.0) |
| command | `{command}` |
| commit | {commit} |
| training | {step:,} steps, {hours:.1f} h on {device} |
| recipe | {recipe} |
| last losses | training {train:.4f}, validation {valid:.4f} ({which} weights, fixed noise) |

## Data

{data}

No patient of the test data is among those of the training or validation data.

## Scores

{scores}

Measurement unclipped, scores clipped to [-1,1], data range 2; 95 % bootstrap intervals over patients.
The scores are of the shipped float16 file.

## Use

Teaching and research. {seen}
It is not a medical device: do not read a denoised scan for diagnosis.
"""
SEEN = """It has seen 28x28 patches in the abdominal window (level 50 HU, width 400 HU), values clipped to
it, and noise that is white and Gaussian. The noise of real scans is correlated; it leaves much of that."""
PREDICTS = dict(z="the noise z", v="v = alpha z - sigma x0")


def described(about):
    "Class and arguments, as one would write them."
    return f"{about['cls']}({', '.join(f'{k}={v}' for k, v in about['kwargs'].items())})"


def recipe_words(stage):
    "The recipe of a stage in words."
    return ", ".join(f"{k} {v}" for k, v in stage["recipe"].items()) + f" ({stage['step']:,} steps)"


def score_words(command, path, rows):
    "The rows of a table that are about these weights, and the command that made it."
    found = [row for row in load_table(path) if all(word in row["method"] for word in rows)]
    columns = [c for c in ("group", "noise", "scan", "method", "n", "psnr", "ssim", "calls") if c in found[0]]
    return f"`{command}`\n\n{markdown_table(found, *columns)}"


def card(name, about, model, notes):
    "The text of a model card."
    content, last = (WEIGHTS/f"{name}.safetensors").read_bytes(), about["history"][-1]
    cls, which = about["model"]["cls"], "averaged" if about["recipe"]["ema"] else "the last"
    return CARD.format(
        name=name, which=which,
        network=f"ctdiff_edu.{CLASSES[cls]}.{cls}", schedule=described(about["schedule"]),
        parameters=sum(p.numel() for p in model.parameters()), prediction=PREDICTS[model.prediction],
        size=len(content)/1e6, sha256=hashlib.sha256(content).hexdigest(), step=about["step"],
        hours=about["seconds"]/3600, recipe="; then ".join(map(recipe_words, about["stages"])),
        train=last["train_noise"], valid=last["valid_noise"], license=LICENSE, **notes)


def parser():
    "What the script takes."
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("checkpoint")
    p.add_argument("name")
    for option in ("summary", "command", "commit", "device"): p.add_argument(f"--{option}", required=True)
    p.add_argument("--data", action="append", required=True, choices=SOURCES)
    p.add_argument("--seen", default=SEEN, help="a sentence on what the network knows")
    p.add_argument("--before", help="checkpoint with which the run began, if it did not begin at random")
    p.add_argument("--scores", nargs=2, action="append", metavar=("CSV", "COMMAND"), default=[])
    p.add_argument("--rows", nargs="+", help="words in a score's method (default: one call, NAME)")
    return p


def main():
    "Write weights and card."
    a = parser().parse_args()
    path = WEIGHTS/f"{a.name}.safetensors"
    before = load_checkpoint(a.before)[1] if a.before else None
    notes = dict(license=LICENSE, trained_on=a.data, command=a.command, commit=a.commit)
    about = export_weights(a.checkpoint, path, before, **notes)
    words = a.rows or ("one call", a.name)
    rows = [score_words(command, table, words) for table, command in a.scores]
    notes = {name: getattr(a, name) for name in ("summary", "command", "commit", "device", "seen")}
    notes["data"] = "\n".join(f"- {SOURCES[d]}" for d in a.data)
    notes["scores"] = "\n\n".join(rows) or "Not scored."
    (WEIGHTS/f"{a.name}.md").write_text(card(a.name, about, pretrained(a.name)[0], notes))
    print(path.name, f"{path.stat().st_size/1e6:.1f} MB")


if __name__ == "__main__":
    main()
