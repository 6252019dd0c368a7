"""Damaged and unusual images, in trees and in tables of the hub."""

import dataclasses
import io
import logging
import os
import shutil

import datasets
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from novobench.tasks.image.config import ImageDataConfig, ImageModelConfig
from novobench.tasks.image.data import open_images
from novobench.tasks.sampling import SampleKey
from tests.fuzz.judge import extents, judge
from tests.fuzz.odd import damaged, words

SIDE = 8
BASE = ImageDataConfig(
    source="folder", name="pets", train_size=4, search_size=0, test_size=2, image_size=SIDE, resize_size=SIDE
)
MODEL = ImageModelConfig(classes=2)
KINDS = [
    ("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("LA", "PNG"),
    ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "GIF"), ("RGB", "BMP"), ("P", "BMP"), ("RGB", "TIFF"),
    ("I;16", "TIFF"), ("F", "TIFF"), ("I", "TIFF"), ("1", "TIFF"), ("CMYK", "TIFF"), ("LAB", "TIFF"), ("RGB", "WEBP"),
    ("RGBA", "WEBP"), ("RGB", "PPM"), ("L", "PPM"), ("1", "PPM"), ("RGB", "JPEG2000"), ("RGB", "AVIF"),
]  # fmt: skip
ENDINGS = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


def encoded(mode, kind, size=(SIDE, SIDE)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    elif mode == "LAB":
        picture = Image.frombytes("LAB", size, pixels.tobytes())
    elif mode in ("LA", "F", "I"):
        picture = picture.convert("L").convert(mode)
    elif mode != "RGB":
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def ending(kind):
    return ENDINGS.get(kind, kind.lower())


@pytest.fixture(scope="module")
def samples():
    """Suffix and content of an image of each kind that this Pillow writes."""
    found = []
    for mode, kind in KINDS:
        if kind.upper() in Image.SAVE or (Image.init() and kind.upper() in Image.SAVE):
            found.append((ending(kind), encoded(mode, kind)))
            found.append((ending(kind), encoded(mode, kind, (11, 5))))
    return found


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    monkeypatch.setattr("novobench.files.os.fsync", lambda _: None)
    logging.disable(logging.WARNING)  # about skipped images
    yield tmp_path / "cache"
    logging.disable(logging.NOTSET)


def read_all(config, root):
    splits = open_images(config, root, seed=0, model=MODEL)
    keys, places = [SampleKey(0, index) for index in range(len(splits.train))], range(len(splits.test))
    if config.images_on == "accelerator":  # whole batches
        splits.train.batch(splits.train[keys].numbers)
        splits.test.batch(splits.test[places].numbers)
    else:
        [splits.train[key] for key in keys], [splits.test[place] for place in places]


SETTINGS = {
    "on_bad_image": st.sampled_from(["error", "error", "skip"]),
    "how": st.sampled_from(
        [
            {"crop": "random_resized"}, {"crop": "random_resized"}, {"crop": "pad_shift"}, {"crop": "none"},
            {"crop": "pad_shift", "images_on": "accelerator"}, {"crop": "none", "images_on": "accelerator"},
        ]
    ),
}  # fmt: skip


def changed(config, on_bad_image, how):
    """The config with the sizes that follow `image_size` filled in again."""
    return dataclasses.replace(config, on_bad_image=on_bad_image, resize_size=None, crop_padding=None, **how)


def contents(samples):
    """Suffix and content: intact, damaged, or not an image."""
    broken = st.sampled_from(samples).flatmap(lambda sample: st.tuples(st.just(sample[0]), damaged(sample[1])))
    other = st.tuples(st.sampled_from(["png", "jpg", "gif", "tif"]), st.binary(max_size=40))
    return st.one_of(st.sampled_from(samples), broken, broken, broken, other)


@extents(40, 1500)
def test_images_of_a_tree(inputs, samples, own_cache, tmp_path, fuzz):
    good = encoded("RGB", "PNG")
    fresh = tmp_path / "fresh" / "pets"
    for split, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            (fresh / split / name).mkdir(parents=True)
            for number in range(count):
                (fresh / split / name / f"{number}.png").write_bytes(good + bytes([label, number]))

    def attempt(picture, name, place, **settings):
        shutil.rmtree(tmp_path / "pets", ignore_errors=True)
        shutil.rmtree(own_cache, ignore_errors=True)
        shutil.copytree(fresh, tmp_path / "pets")
        taken = tmp_path / "pets" / place
        taken.unlink()
        stem = os.fsencode(name.replace("/", "").replace("\0", "")[:40].encode("utf-8", "surrogatepass"))
        path = os.fsencode(taken.parent) + b"/" + stem + b"x." + picture[0].encode()
        with open(path, "wb") as file:
            file.write(picture[1])
        config = changed(BASE, **settings)
        return judge(lambda: read_all(config, tmp_path), str(taken.parent), "data.")

    place = st.sampled_from(["train/cat/0.png", "val/dog/0.png"])
    fuzz(inputs, attempt, picture=contents(samples), name=st.just("") | words(), place=place, **SETTINGS)


@extents(2, 150)
def test_images_of_a_table(inputs, samples, own_cache, tmp_path, fuzz):
    """As bytes in parquet files; rows without bytes, with paths of missing files, with labels of all kinds."""
    good = {"bytes": encoded("RGB", "PNG"), "path": "a.png"}
    features = datasets.Features(
        {
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    config = dataclasses.replace(BASE, source="hub", path="hub", test_split="test")
    row = st.one_of(
        contents(samples).map(lambda picture: {"bytes": picture[1], "path": "b." + picture[0]}),
        st.none(),
        st.text(st.characters(codec="utf-8"), max_size=5).map(lambda path: {"bytes": None, "path": path}),
        st.just({"bytes": None, "path": None}),
    )

    def attempt(row, label, **settings):
        shutil.rmtree(own_cache, ignore_errors=True)
        folder = tmp_path / "hub" / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for split, count in (("train", 4), ("test", 2)):
            columns = {"image": [good] * (count - 1) + [row], "label": [*([0, 1] * 2)[: count - 1], label]}
            table = datasets.Dataset.from_dict(columns, features=features)
            table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        chosen = changed(config, **settings)
        return judge(lambda: read_all(chosen, tmp_path), "hub[", "data.")

    datasets.disable_progress_bars()
    fuzz(inputs, attempt, row=row, label=st.sampled_from([0, 1, 1, 1, -1, None]), **SETTINGS)
