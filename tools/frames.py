"""Make the pictures that the explorers and the front page move, in nbs/explorers and nbs/images.

Everything comes from the procedural phantoms and from draws of the shipped networks; no pixel is a patient's.
Run again after the networks have changed: python tools/frames.py [patches] [views]; minutes on one core."""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import ctdiff_edu as ct
from ctdiff_edu.sampling import ancestral, generative_denoising, predicting_noise
from ctdiff_edu.show import generator

ROOT = Path(__file__).resolve().parents[1]
EXPLORERS, IMAGES = ROOT/"nbs"/"explorers", ROOT/"nbs"/"images"
SIDE, COLUMNS = 28, 42               # pixels of a patch; patches in a row of the sheet
LOW, HIGH = -2.0, 2.0                # what black and white of the sheet stand for
SIGMA_N, STEPS, SAMPLES = 0.3, 20, 32
PICKS = (0, 5, 7)                    # of phantoms(10, seed=11)


class Recorder:
    "A denoiser that keeps what it was asked and what it answered, as VP states alpha x."
    def __init__(self, D):
        self.D, self.states, self.estimates = D, [], []

    def __call__(self, x, sigma):
        answer = self.D(x, sigma)
        self.states.append(x/float((1 + torch.as_tensor(sigma).double().max()**2).sqrt()))
        self.estimates.append(answer)
        return answer


class TalkRecorder:
    "A network that keeps the states it was asked and the clean images that follow from its answers."
    prediction = "z"

    def __init__(self, net):
        self.net, self.states, self.estimates = net, [], []

    def parameters(self): return self.net.model.parameters()

    def __call__(self, x, t):
        z = self.net.model(x, t)
        alpha, sigma = (f(t).to(x).view(-1, 1, 1, 1) for f in (self.net.sde.alpha, self.net.sde.sigma))
        self.states.append(x)
        self.estimates.append(((x - sigma*z)/alpha).clamp(-1, 1))
        return z


def chain(D, shape, seed, n_steps=STEPS):
    "States and estimates of an ancestral chain, and the final image: (n_steps + 1, B, 1, 28, 28) each."
    recorder = Recorder(D)
    end = ct.sample(recorder, shape, n_steps, generator(seed), solver=ancestral)
    return torch.stack([*recorder.states, end]), torch.stack([*recorder.estimates, end])


def talk_chain(net, y, seed):
    "The same of the talk's algorithm with 100 steps, every fifth of them."
    recorder = TalkRecorder(net)
    end = generative_denoising(y, recorder, net.sde, SIGMA_N, 5*STEPS, generator=generator(seed))
    return torch.stack([*recorder.states[::5], end]), torch.stack([*recorder.estimates[::5], end])


def material():
    "All stacks of patches (n,28,28) by name."
    talk, small = (ct.load_network(name, precision="float32") for name in ("talk", "small"))
    x0 = ct.phantoms(10, seed=11)[list(PICKS)]
    y = ct.add_noise(x0, SIGMA_N, generator(0))
    found = {"clean": x0, "noisy": y, "one": ct.denoise(small.D, y, SIGMA_N)}
    chains = {"draw": chain(small.D, x0.shape, 4),
              "exact": chain(ct.condition(small.D, y, SIGMA_N), x0.shape, 2),
              "talk": talk_chain(predicting_noise(talk), y, 3)}
    for name, (states, estimates) in chains.items():
        found[f"{name}.state"] = states.transpose(0, 1)            # image by image
        found[f"{name}.estimate"] = estimates.transpose(0, 1)
    found["samples"] = ct.posterior_samples(small.D, y, SIGMA_N, SAMPLES, generator(5)).transpose(0, 1)
    return {name: stack.reshape(-1, SIDE, SIDE).numpy() for name, stack in found.items()}


def to_bytes(values, levels=256):
    "Values as grey levels of the sheet; fewer `levels` compress better."
    step = 255/(levels - 1)
    unit = (np.clip(values, LOW, HIGH) - LOW)/(HIGH - LOW)
    return np.rint(np.rint(unit*(levels - 1))*step).astype(np.uint8)


def sheet(found):
    "One picture of all patches, and where each stack begins."
    begins, tiles = {}, []
    for name, stack in found.items():
        begins[name] = [len(tiles), len(stack)]
        tiles += list(to_bytes(stack, 64 if name.endswith(".state") else 256))
    rows = -(-len(tiles)//COLUMNS)
    tiles += [np.zeros((SIDE, SIDE), np.uint8)]*(rows*COLUMNS - len(tiles))
    grid = np.stack(tiles).reshape(rows, COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3)
    return grid.reshape(rows*SIDE, COLUMNS*SIDE), begins


def write_sheet(found):
    "frames.webp and frames.json."
    picture, begins = sheet(found)
    EXPLORERS.mkdir(exist_ok=True)
    Image.fromarray(picture).save(EXPLORERS/"frames.webp", lossless=True, quality=100, method=6)
    about = dict(side=SIDE, columns=COLUMNS, low=LOW, high=HIGH, images=len(PICKS), steps=STEPS,
                 samples=SAMPLES, sigma_n=SIGMA_N, stacks=begins)
    (EXPLORERS/"frames.json").write_text(json.dumps(about, indent=1) + "\n")


ZOOM, GAP, FOOT = 6, 12, 30          # of the hero: pixels for each of a patch, between patches, for the words
BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)


def hero_frame(patches, words, share, colour):
    "One frame: patches side by side, a line of words, a bar for the time."
    side = SIDE*ZOOM
    width = len(patches)*(side + GAP) - GAP
    frame = Image.new("RGB", (width, side + FOOT), (18, 18, 22))
    for i, patch in enumerate(patches):
        grey = np.rint(np.clip((patch + 1)/2, 0, 1)*31)*(255/31)
        tile = Image.fromarray(grey.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
        frame.paste(tile, (i*(side + GAP), 0))
    draw = ImageDraw.Draw(frame)
    draw.text((2, side + 8), words, font=ImageFont.load_default(15), fill=(235, 235, 235))
    draw.rectangle((0, side + 2, round(width*share), side + 4), fill=colour)
    return frame


def hero(found):
    "Frames and their milliseconds: the forward process, the reverse process, one call."
    def images_of(name, n): return found[name].reshape(len(PICKS), -1, SIDE, SIDE)[:, n]
    clean, noisy, z = images_of("clean", 0), images_of("noisy", 0), images_of("exact.state", 0)
    frames = [(hero_frame(clean, "clean", 0, BLUE), 900)]
    for i in range(1, 17):
        angle = i/16*np.pi/2
        x = np.cos(angle)*clean + np.sin(angle)*z
        frames.append((hero_frame(x, f"forward: noise, little by little   t = {i/16:.2f}", i/16, BLUE), 90))
    for i in range(STEPS + 1):
        words = f"reverse: a network removes it, a measurement steers   call {i} of {STEPS}"
        frames.append((hero_frame(images_of("exact.state", i), words, 1 - i/STEPS, ORANGE), 110))
    frames.append((hero_frame(noisy, "or: the noisy measurement ...", 0, GREEN), 1400))
    one = images_of("one", 0)
    frames.append((hero_frame(one, "... and one call, the best single guess", 1, GREEN), 2600))
    return frames


def write_hero(found):
    "hero.webp, which moves, and hero-still.webp for those who want no motion."
    frames, times = zip(*hero(found))
    frames[0].save(IMAGES/"hero.webp", save_all=True, append_images=frames[1:], duration=list(times), loop=0,
                   lossless=True, quality=100, method=6)
    middle = [frames[i] for i in (0, 8, -2, -1)]
    still = Image.new("RGB", (middle[0].width*2 + GAP, middle[0].height*2 + GAP), (18, 18, 22))
    for i, frame in enumerate(middle):
        still.paste(frame, (i % 2*(frame.width + GAP), i//2*(frame.height + GAP)))
    still.save(IMAGES/"hero-still.webp", lossless=True, quality=100, method=6)


VIEWS = (8, 12, 16, 24, 32, 48, 64, 90)
WINDOW = -150.0, 250.0               # HU that are black and white


def reconstructions():
    "A phantom slice (HU), its sinogram, and FBP, TV and the prior from few views: (method, views, H, W)."
    from ctdiff_edu.classical import tv_pdhg
    from ctdiff_edu.reconstruction import hqs
    from ctdiff_edu.tomography import ParallelBeam, phantom_slices, to_attenuation, to_hu
    net = ct.load_network("prior", precision="float32")
    hu = phantom_slices(5)[2:3]
    mu = to_attenuation(hu)
    rows = [[], [], []]
    for n in VIEWS:
        A = ParallelBeam(128, n, pixel_mm=350/128)
        y = A(mu)
        how = dict(steps=40, first=0.7) if n < 24 else {}
        found = A.fbp(y), tv_pdhg(A, y, 1e-3, steps=400, tol=0.02).x, hqs(net.D, A, y, 1e-3, **how)
        for row, image in zip(rows, found): row.append(to_hu(image)[0, 0])
        print(n, "views", flush=True)
    full = ParallelBeam(128, 180, pixel_mm=350/128)(mu)[0, 0]
    return hu[0, 0].numpy(), full.numpy(), np.array([[v.numpy() for v in row] for row in rows])


def write_views():
    "views.webp: the methods in rows, the views in columns, the truth at the end; sinogram.webp; views.json."
    hu, sinogram, rows = reconstructions()
    def grey(v): return np.rint(np.clip((v - WINDOW[0])/(WINDOW[1] - WINDOW[0]), 0, 1)*63)*(255/63)
    truth = np.concatenate([hu[None], np.zeros((2, *hu.shape)) - 1000])[:, None]
    grid = grey(np.concatenate([rows, truth], 1)).transpose(0, 2, 1, 3).reshape(3*128, -1)
    Image.fromarray(grid.astype(np.uint8)).save(EXPLORERS/"views.webp", lossless=True, quality=100, method=6)
    lines = np.rint(sinogram/sinogram.max()*255).astype(np.uint8)
    Image.fromarray(lines).save(EXPLORERS/"sinogram.webp", lossless=True, quality=100, method=6)
    inside = hu > -500                                  # the error is that of the body
    errors = [[round(float(e), 1) for e in row] for row in np.sqrt(((rows - hu)[:, :, inside]**2).mean(-1))]
    about = dict(side=128, views=VIEWS, window=WINDOW, methods=["FBP", "TV", "learned"], errors=errors)
    (EXPLORERS/"views.json").write_text(json.dumps(about, indent=1) + "\n")


def main(*parts):
    "Everything, or the parts that are named; prints the sizes."
    torch.set_num_threads(1)
    if "patches" in parts or not parts:
        found = material()
        write_sheet(found)
        write_hero(found)
    if "views" in parts or not parts: write_views()
    for p in [*EXPLORERS.glob("*.webp"), *IMAGES.glob("hero*.webp")]:
        print(f"{p.relative_to(ROOT)}: {p.stat().st_size/1024:.0f} KB")


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"patches", "views"}: sys.exit("usage: frames.py [patches] [views]")
    main(*sys.argv[1:])
