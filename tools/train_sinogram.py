"""Train the network of the lesson on sinograms: python tools/train_sinogram.py runs/sinogram

Crops of 72 views x 64 bins, every eighth step at any level, the others log-normal; one core, bfloat16.
A run that was ended goes on with --resume. tools/ship.py makes the shipped file of it.
"""
import argparse

import torch

from ctdiff_edu.network import SmallUNet
from ctdiff_edu.schedule import CosineTable
from ctdiff_edu.sde import VPSDE
from ctdiff_edu.sinogram_prior import RECIPE, sinogram_crops
from ctdiff_edu.training import train


def main():
    "Train, and write weights.safetensors."
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", help="folder of the run")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--max-steps", type=int)
    a = p.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = SmallUNet(width=64, low=112)
    crops, valid = sinogram_crops("train", 9600), sinogram_crops("val", 128)
    train(a.out, net, VPSDE(CosineTable()), crops, valid, RECIPE, resume=a.resume, max_steps=a.max_steps,
          trained_on=["sinograms:ct_slices256.npz"])


if __name__ == "__main__":
    main()
