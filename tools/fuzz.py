"""Damage files of every kind by a seed, and see what reading and using them does.

A case may end well or with one line of complaint. It fails if it ends in a traceback, runs for more than
20 s, takes more than 2 GB, or leaves something half-written. Number and seed say what a case is."""
import argparse
import contextlib
import copy
import io
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch

from ctdiff_edu.data import add_noise, load_patches, phantoms
from ctdiff_edu.files import load_table, quiet
from ctdiff_edu.provenance import verify
from ctdiff_edu.reading import read_image
from ctdiff_edu.scans import denoise_scan
from ctdiff_edu.schedule import CosineTable
from ctdiff_edu.scores import NOISY, evaluate
from ctdiff_edu.sde import VPSDE
from ctdiff_edu.training import Recipe, fit
from ctdiff_edu.unet import UNet
from ctdiff_edu.weights import export_weights, load_checkpoint, pretrained, save_checkpoint

SECONDS, BYTES = 20, 2*2**30
COMPLAINTS = (ValueError, OSError, FloatingPointError, MemoryError)
CLEAN = phantoms(6, seed=3)
RECIPE = Recipe(epochs=2, batch_size=3, restart_epochs=2, ema=0.9, precision="float32")


# Damage to bytes: functions of (data, random numbers)

def cut(data, rng): return data[:rng.integers(len(data) + 1)]


def flip(data, rng):
    "One to five bits changed, often near the beginning."
    data, end = bytearray(data), min(len(data), int(rng.choice([200, 2000, len(data)])))
    for _ in range(rng.integers(1, 6)): data[rng.integers(end)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def overwrite(data, rng):
    "A few bytes set to an extreme: zeros, ones, or the largest signed number."
    what = [b"\0"*4, b"\xff"*4, b"\xff\xff\xff\x7f", b"\0"*64][rng.integers(4)]
    at = int(rng.integers(min(len(data), int(rng.choice([400, len(data)])))))
    return data[:at] + what + data[at + len(what):]


def insert(data, rng):
    at = int(rng.integers(len(data)))
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def leave_out(data, rng):
    at = int(rng.integers(len(data)))
    return data[:at] + data[at + int(rng.integers(1, 40)):]


def repeat(data, rng):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 400))
    return data[:at + n] + data[at:]


BYTEWISE = (cut, flip, flip, overwrite, insert, leave_out, repeat)


def damaged(data, rng): return BYTEWISE[rng.integers(len(BYTEWISE))](data, rng)


# Damage to structure

ODD = ("", "x"*300, "a\\b", None, -1, 0, 1, 3, 2**16 - 1, 2**31 - 1, 2**40, -2.5, 1e308, 1e-320,
       float("nan"), float("inf"), True, [], [1], [0]*6, ["CT", "MR"], {}, {"cls": "UNet"}, "1.2.3", "UNet")
ELEMENTS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelData",
    "PixelPaddingRangeLimit", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Modality",
    "PhotometricInterpretation", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "SeriesDescription", "DerivationDescription", "SourceImageSequence", "ImageType", "SpecificCharacterSet",
    "SmallestImagePixelValue", "SharedFunctionalGroupsSequence", "DigitalSignaturesSequence")


def odd_dicom(data, rng):
    "A DICOM in which a few elements are missing or odd; if it cannot be written, its bytes are damaged."
    import pydicom
    ds = pydicom.dcmread(io.BytesIO(data))
    with contextlib.suppress(Exception), quiet():
        for name in rng.choice(ELEMENTS, rng.integers(1, 4)): _edit(ds, str(name), rng)
        if rng.random() < 0.3: ds.compress(pydicom.uid.RLELossless)
        elif rng.random() < 0.2: ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        f = io.BytesIO()
        ds.save_as(f)
        return f.getvalue()
    return damaged(data, rng)


def _edit(ds, name, rng):
    "One element: away, odd, or a sequence of sequences."
    import pydicom
    how = rng.integers(4)
    if how == 0 and name in ds: delattr(ds, name)
    elif name.endswith("Sequence"):
        item = pydicom.Dataset()
        for _ in range(rng.integers(1, 60)):
            outer = pydicom.Dataset()
            outer.SourceImageSequence, item = [item], outer
        setattr(ds, name, [item])
    else: setattr(ds, name, ODD[rng.integers(len(ODD))])


def odd_json(value, rng):
    "A JSON value of which one part is missing, odd, or deeply nested."
    if isinstance(value, (dict, list)) and len(value) and rng.random() < 0.85:
        value = copy.copy(value)
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[rng.integers(len(keys))]
        if rng.random() < 0.15: del value[key]
        else: value[key] = odd_json(value[key], rng)
        return value
    if rng.random() < 0.05: return json.loads("["*200 + "]"*200)
    return ODD[rng.integers(len(ODD))]


def odd_weights(data, rng):
    "Weights or a checkpoint: damaged bytes, or odd in header or tensors with a hash that is right."
    if rng.random() < 0.4: return damaged(data, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/"w.safetensors"
        path.write_bytes(data)
        tensors, meta = load_checkpoint(path)
        if rng.random() < 0.75: meta = odd_json(meta, rng)
        else: _edit_tensor(tensors, rng)
        with contextlib.suppress(Exception):
            save_checkpoint(path, tensors, meta)
            return path.read_bytes()
    return damaged(data, rng)


def _edit_tensor(tensors, rng):
    "One tensor away, of another shape or type."
    name = list(tensors)[rng.integers(len(tensors))]
    how, v = rng.integers(4), tensors.pop(name)
    if how == 1: tensors[name] = v.reshape(-1)[:1].clone()
    if how == 2: tensors[name] = v.to([torch.int64, torch.bool, torch.float64][rng.integers(3)])
    if how == 3: tensors[f"{name}x"] = v


def odd_npz(data, rng):
    "An archive with damaged bytes, or with other arrays."
    if rng.random() < 0.6: return damaged(data, rng)
    arrays = dict(np.load(io.BytesIO(data)))
    name = list(arrays)[rng.integers(len(arrays))]
    v = arrays.pop(name)
    how = rng.integers(4)
    if how == 1: arrays[name] = v.reshape(-1)[:-1]
    if how == 2: arrays[name] = v.astype([np.float32, np.int8, "U5", complex, object][rng.integers(5)])
    if how == 3: arrays[name] = np.zeros((0, 3))
    f = io.BytesIO()
    np.savez(f, **arrays)
    return f.getvalue()


def odd_record(data, rng):
    if rng.random() < 0.5: return damaged(data, rng)
    return json.dumps(odd_json(json.loads(data), rng)).encode()


# What is done with the files. Each function is given the folder with the damaged file.

def use_scan(path):
    "Read, denoise, write; what was written can be read."
    scale = (-200, 300) if path.suffix == ".npy" else None
    sigma = 3000 if path.suffix in (".png", ".tif") else 100
    out = path.with_name("out" if path.is_dir() else f"out{''.join(path.suffixes)}")
    denoise_scan(path, out, sigma, path.with_name("weights.safetensors"), range=scale, precision="float32")
    read_image(out, scale, force=True)


def use_sealed(path):
    "The same for a format with checksums: what is read must be what was written."
    use_scan(path)
    got, sound = (read_image(p).pixels for p in (path, path.parents[1]/"sound"/path.name))
    if not np.array_equal(got, sound): raise RuntimeError("other pixels, and no complaint")


def use_checkpoint(path):
    torch.manual_seed(0)
    fit(UNet(hidden=12), VPSDE(CosineTable()), CLEAN, None, RECIPE, path, resume=True, progress=False)
    export_weights(path, path.with_name("out.safetensors"))


def use_cache(path):
    y = add_noise(CLEAN[:2], 0.3, torch.Generator().manual_seed(0))
    evaluate([NOISY], CLEAN[:2], y, 0.3, folder=path.parent)


@dataclass
class Kind:
    "Files of one kind."
    name: str
    damage: Callable      # (data, random numbers) -> data
    use: Callable         # of the path
    member: str = None    # of a folder, the file that is damaged


KINDS = (
    *(Kind(f"a.{suffix}", damaged, use_scan) for suffix in ("dcm", "nii", "tif", "npy")),
    *(Kind(f"a.{suffix}", damaged, use_sealed) for suffix in ("nii.gz", "png")),
    Kind("a.dcm", odd_dicom, use_scan), Kind("a.dcm", odd_dicom, use_scan),
    Kind("series", odd_dicom, use_scan, "1.dcm"),
    Kind("weights.safetensors", odd_weights, pretrained),
    Kind("run.safetensors", odd_weights, use_checkpoint),
    Kind("cache.npz", odd_npz, use_cache), Kind("patches.npz", odd_npz, load_patches),
    Kind("result.npy.json", odd_record, lambda path: verify(path.with_name("result.npy"))),
    Kind("table.csv", damaged, load_table))


# Sound files of each kind

def make_sound(folder):
    "The files that are damaged later."
    _make_pictures(folder)
    _make_dicoms(folder)
    _make_weights(folder)
    use_cache(folder/"none")
    next(folder.glob("noisy-*.npz")).rename(folder/"cache.npz")
    images = ((CLEAN[:, 0].numpy() + 1)*127.5).astype(np.uint8)
    np.savez_compressed(folder/"patches.npz", test_images=images, test_labels=np.arange(6)[:, None])
    np.save(folder/"source.npy", CLEAN[0, 0])
    denoise_scan(folder/"source.npy", folder/"result.npy", 0.3, folder/"weights.safetensors", range=(-1, 1))
    (folder/"table.csv").write_text("method,psnr\nnoisy,16.46\nblur,22.8\n")


def _make_pictures(folder):
    import nibabel
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    hu = np.random.default_rng(0).integers(-150, 250, (12, 10, 3)).astype(np.int16)
    volume = nibabel.Nifti1Image(hu, np.diag([2, 2, 5, 1]))
    for name in ("a.nii", "a.nii.gz"): nibabel.save(volume, folder/name)
    np.save(folder/"a.npy", hu.transpose(2, 1, 0).astype(np.float32))
    grey, note = (hu + 150).astype(np.uint16)*100, PngInfo()
    note.add_text("Title", "a phantom")
    Image.fromarray(grey[..., 0]).save(folder/"a.png", dpi=(300, 300), pnginfo=note)
    save_tiff(folder/"a.tif", grey.transpose(2, 1, 0))


def save_tiff(path, pages):
    "Write pages (Z,H,W) as a compressed TIFF."
    import tifffile
    tifffile.imwrite(path, np.ascontiguousarray(pages), compression="zlib", photometric="minisblack")


def _make_dicoms(folder):
    "One object of 16x16 px, and a series of three."
    import pydicom
    from pydicom.data import get_testdata_file
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    stored = ds.pixel_array[40:56, 40:56].copy()
    ds.PixelData, ds.Rows, ds.Columns = stored.tobytes(), 16, 16
    ds.save_as(folder/"a.dcm")
    (folder/"series").mkdir()
    for i in range(3):
        ds.ImagePositionPatient, ds.SOPInstanceUID = [0, 0, 4*i], f"1.2.{i}"
        ds.save_as(folder/"series"/f"{i}.dcm")


def _make_weights(folder):
    torch.manual_seed(0)
    net, sde = UNet(hidden=12), VPSDE(CosineTable())
    fit(net, sde, CLEAN, None, RECIPE, folder/"run.safetensors", max_steps=2, progress=False)
    export_weights(folder/"run.safetensors", folder/"weights.safetensors", trained_on=["phantoms"])


# One case

def run_case(kind, rng, sound, folder):
    "Damage a file and use it; the outcome: 'ok', 'refused' or what went wrong. Without `rng` it stays sound."
    if folder.exists(): shutil.rmtree(folder)
    folder.mkdir()
    path = _put(kind, rng, sound, folder)
    before = _listing(folder)
    outcome = _outcome(kind.use, path)
    fresh = [p for p in _listing(folder) if p not in before]
    odd = [p for p in fresh if ".part" in p or (outcome != "ok" and Path(p).name.startswith("out"))]
    return f"left {', '.join(odd)} behind" if odd and outcome in ("ok", "refused") else outcome


def _put(kind, rng, sound, folder):
    "The damaged file and what is needed beside it, in a folder of its own."
    for name in ("weights.safetensors", "result.npy"): shutil.copy(sound/name, folder/name)
    path = folder/kind.name
    if kind.member: shutil.copytree(sound/kind.name, path)
    target = path/kind.member if kind.member else path
    data = (sound/target.relative_to(folder)).read_bytes()
    if kind.name == "cache.npz":  # its name hangs on what is in it
        use_cache(path)
        target = next(folder.glob("noisy-*.npz"))
    with np.errstate(all="ignore"): target.write_bytes(kind.damage(data, rng) if rng else data)
    return path


def _listing(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def _outcome(use, path):
    "What using a file comes to, within the limits of time and memory."
    _forget_peak()
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        use(path)
        outcome = "ok"
    except COMPLAINTS as e:
        outcome = "refused" if "\n" not in str(e) and len(str(e)) < 700 else f"a long message: {e}"
    except BaseException:
        outcome = traceback.format_exc()
    finally:
        signal.alarm(0)
    if _peak() > BYTES: outcome = f"took {_peak()/2**30:.1f} GB"
    return outcome


class Late(BaseException): "A case took too long; nothing in the library catches it."


def _late(*_): raise Late(f"more than {SECONDS} s")


def _forget_peak():
    "Let the system measure the largest memory from here on (Linux)."
    with contextlib.suppress(OSError): Path("/proc/self/clear_refs").write_text("5")


def _peak():
    "Largest memory since then, in bytes."
    try: return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])*1024
    except OSError: return 1024*resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(numbers, seed, say=print):
    "Run cases; the failures, and a count of outcomes by kind. The sound files must do."
    failures, counts = [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        sound, case = Path(folder)/"sound", Path(folder)/"case"
        sound.mkdir()
        make_sound(sound)
        for kind in KINDS:
            outcome = run_case(kind, None, sound, case)
            if outcome != "ok": raise RuntimeError(f"{kind.name} is sound, but: {outcome}")
        for number in numbers:
            kind = KINDS[number % len(KINDS)]
            outcome = run_case(kind, np.random.default_rng([seed, number]), sound, case)
            counts[kind.name, outcome if outcome in ("ok", "refused") else "failed"] += 1
            if outcome in ("ok", "refused"): continue
            failures.append(number)
            say(f"case {number} (--seed {seed} --only {number}), {kind.name}: {outcome}")
    return failures, counts


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--cases", type=int, default=200, help="how many (200)")
    p.add_argument("--seed", type=int, default=0, help="of all of them (0)")
    p.add_argument("--only", type=int, help="this case alone")
    a = p.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (16*2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    start, numbers = time.perf_counter(), range(a.cases) if a.only is None else [a.only]
    failures, counts = fuzz(numbers, a.seed)
    for name in sorted({name for name, _ in counts}):
        words = (f"{counts[name, what]:4} {what}" for what in ("ok", "refused", "failed"))
        print(f"{name:22}{', '.join(words)}")
    print(f"{len(numbers)} cases, {len(failures)} failed, {time.perf_counter() - start:.0f} s")
    return int(bool(failures))


if __name__ == "__main__": sys.exit(main())
