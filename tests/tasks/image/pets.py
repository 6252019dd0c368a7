"""A small ImageFolder tree: 2 classes × 2 training images and 1 test image, and the config that reads it."""

import io

import numpy as np
from PIL import Image

from novobench.tasks.image.config import ImageDataConfig

SIDE = 8
PETS = ImageDataConfig(
    source="folder", name="pets", train_size=4, search_size=0, test_size=2, image_size=SIDE, resize_size=SIDE,
    crop="none", mean=[0.0] * 3, std=[1.0] * 3, flip=False,
)  # fmt: skip
FILES = ("train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1", "val/cat/0", "val/dog/0")


def png(seed=0, size=(SIDE, SIDE)):
    """The content of a PNG file with random pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def save(path, seed=0, size=(SIDE, SIDE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seed, size))
