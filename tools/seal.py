"""Put the SHA-256 of header and tensors into weights that were written without one.

Nothing else changes, but the file's own hash in its model card."""
import argparse
import hashlib
from pathlib import Path

import torch

from ctdiff_edu.weights import load_checkpoint, save_checkpoint

WEIGHTS = Path(__file__).resolve().parents[1]/"ctdiff_edu"/"weights"


def file_hash(path): return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(path):
    "Write a file again with its hash and mend its card; what was done, in words."
    before, (tensors, meta) = file_hash(path), load_checkpoint(path)
    save_checkpoint(path, tensors, meta)
    again, meta_again = load_checkpoint(path)
    assert meta_again == meta and again.keys() == tensors.keys()
    for name, v in tensors.items():
        assert again[name].dtype == v.dtype and torch.equal(again[name], v), name
    now = file_hash(path)
    if now == before: return "has its hash already"
    return f"{before[:12]} is now {now[:12]}{mend_card(path.with_suffix('.md'), before, now)}"


def mend_card(card, before, now):
    "Name the new hash of the file in its model card, if there is one."
    if not card.exists(): return ""
    text = card.read_text()
    assert text.count(before) == 1, f"{card} does not name {before}"
    card.write_text(text.replace(before, now))
    return f", as {card.name} says"


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("files", nargs="*", type=Path, default=sorted(WEIGHTS.glob("*.safetensors")),
                   help="(all that come with the package)")
    for path in p.parse_args().files: print(f"{path.name}: {seal(path)}")
