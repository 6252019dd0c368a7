"""Images on the training's device: batches equal those of the loader bit by bit; images are decoded once."""

import dataclasses
import itertools
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from novobench.errors import ConfigError, DataError
from novobench.tasks.image.batches import SKIPPED_LABEL
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.data import open_images
from novobench.tasks.image.sources import FolderSource
from novobench.tasks.sampling import SampleKey
from novobench.training import cell
from tests.cells import result, small_cell, small_config, train_apart

SIDE = 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """An ImageFolder tree of square images: 2 classes × 20 for training and 7 for testing."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 7)):
        for name in ("ant", "bee"):
            (root / "square" / split / name).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, size=(SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(picture).save(root / "square" / split / name / f"{i:02}.png")
    return root


def square(images_on, **changes):
    settings = {"name": "square", "train_size": 32, "search_size": 8, "test_size": 14, "resize_size": SIDE}
    return ImageDataConfig(**{**settings, "crop": "pad_shift", "images_on": images_on, **changes})


def both(tree, seed=0, **changes):
    """The splits with batches made by the loader, and by the accelerator."""
    return [open_images(square(where, **changes), tree, seed=seed) for where in ("loader", "accelerator")]


@pytest.mark.parametrize(
    ("size", "padding", "crop", "flip"),
    [
        *itertools.product([SIDE, SIDE - 5], [0, 1, 4], ["pad_shift"], [False, True]),
        *itertools.product([SIDE], [4], ["none"], [False, True]),
    ],
)
def test_training_batches_equal_those_of_the_loader(tree, size, padding, crop, flip):
    loader, resident = both(tree, seed=3, image_size=size, crop_padding=padding, crop=crop, flip=flip)
    keys = [SampleKey(epoch, sample) for epoch in (0, 7) for sample in range(32)]
    images, labels, _ = resident.train[keys].to(torch.device("cpu"))
    expected = [loader.train[key] for key in keys]
    assert torch.equal(images, torch.stack([sample.image for sample in expected]))
    assert images.is_contiguous()  # another layout would select other convolutions and change bits
    assert labels.tolist() == [sample.label for sample in expected]
    assert (resident.fingerprint, resident.counts) == (loader.fingerprint, loader.counts)


@pytest.mark.parametrize("size", [SIDE, SIDE - 3, SIDE - 6])
@pytest.mark.parametrize("split", ["search", "test"])
def test_evaluation_batches_equal_those_of_the_loader(tree, size, split):
    loader, resident = (getattr(splits, split) for splits in both(tree, image_size=size))
    chosen = [5, 0, 3]
    images, labels, samples = resident[chosen].to(torch.device("cpu"))
    expected = [loader[index] for index in chosen]
    assert torch.equal(images, torch.stack([sample.image for sample in expected]))
    assert labels.tolist() == [sample.label for sample in expected]
    assert samples.tolist() == chosen == [sample.sample for sample in expected]
    assert len(resident) == len(loader)


def test_a_training_and_its_id_are_the_same_killed_or_not(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tree))
    changes = {
        "model__in_channels": 3,
        "model__classes": 2,
        **{f"data__{key}": value for key, value in dataclasses.asdict(square("loader")).items()},
        "data__image_size": SIDE - 2,
        "data__crop_padding": 2,
        "data__evaluation_batch": 5,
        "batch__size": 16,
        "batch__micro": 8,
        "runtime__precision": "64-true",
    }
    folders = [small_cell(tmp_path / "loader", "image", **changes)]
    for name in ("whole", "killed"):
        folders.append(small_cell(tmp_path / name, "image", **changes | {"data__images_on": "accelerator"}))
    assert train_apart(folders[2], kill_at="between two checkpoints") != 0
    for folder in folders:
        cell.run(folder.path)
    loader, whole, killed = map(result, folders)
    assert whole == loader
    assert killed == loader


def test_images_are_decoded_once(tree, monkeypatch):
    config = square("accelerator", image_size=SIDE)
    first = open_images(config, tree, seed=0)

    def unread(self, index):
        raise AssertionError("decoded again")

    monkeypatch.setattr(FolderSource, "read", unread)
    second = open_images(config, tree, seed=1)
    assert torch.equal(first.test.pixels, second.test.pixels)


def test_a_changed_image_is_decoded_again(tree):
    config = square("accelerator", image_size=SIDE)
    before = open_images(config, tree, seed=0).test.pixels
    Image.new("RGB", (SIDE, SIDE), (1, 2, 3)).save(tree / "square" / "val" / "bee" / "06.png")
    after = open_images(config, tree, seed=0).test.pixels
    assert torch.equal(after[:-1], before[:-1])
    assert after[-1, :, 0, 0].tolist() == [1, 2, 3]


def test_a_corrupt_image_is_named_or_skipped_as_by_the_loader(tmp_path, caplog):
    for split in ("train", "val"):
        (tmp_path / "bad" / split / "a").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (SIDE, SIDE), (i, i, i)).save(tmp_path / "bad" / split / "a" / f"{i}.jpg")
    broken = tmp_path / "bad" / "train" / "a" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    changes = {"name": "bad", "train_size": 3, "search_size": 0, "test_size": 3, "image_size": SIDE}
    for _ in range(2):  # decoded now, and from the cache
        with pytest.raises(DataError, match=r"bad/train/a/1.jpg cannot be decoded.*on_bad_image=skip"):
            open_images(square("accelerator", **changes), tmp_path, seed=0)
    with caplog.at_level(logging.WARNING):
        loader, resident = both(tmp_path, on_bad_image="skip", **changes)
    assert "1.jpg" in caplog.text
    keys = [SampleKey(1, i) for i in range(3)]
    images, labels, _ = resident.train[keys].to(torch.device("cpu"))
    assert labels.tolist() == [loader.train[key].label for key in keys] == [0, SKIPPED_LABEL, 0]
    assert torch.equal(images, torch.stack([loader.train[key].image for key in keys]))


def test_images_of_every_kind_equal_those_of_the_loader(tmp_path):
    rng = np.random.default_rng(0)
    shape = (SIDE, SIDE)
    gray = rng.integers(0, 65536, shape, dtype=np.uint16)
    kinds = {
        "alpha.png": Image.fromarray(rng.integers(0, 256, (*shape, 4), dtype=np.uint8)),
        "bits.png": Image.fromarray(gray > 30000),
        "cmyk.jpg": Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).convert("CMYK"),
        "deep.png": Image.fromarray(gray),
        "deep.tif": Image.fromarray(gray.astype(">u2")),
        "float.tif": Image.fromarray(gray.astype(np.float32)),
        "palette.gif": Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).quantize(),
    }
    for split in ("train", "val"):
        (tmp_path / "kinds" / split / "a").mkdir(parents=True)
        for name, picture in kinds.items():
            picture.save(tmp_path / "kinds" / split / "a" / name)
    sizes = {"train_size": 7, "search_size": 0, "test_size": 7, "image_size": SIDE}
    loader, resident = both(tmp_path, name="kinds", on_bad_image="skip", **sizes)
    images, labels, _ = resident.test[range(7)].to(torch.device("cpu"))
    expected = [loader.test[i] for i in range(7)]
    assert torch.equal(images, torch.stack([sample.image for sample in expected]))
    assert labels.tolist() == [sample.label for sample in expected]
    assert labels.tolist() == [SKIPPED_LABEL if name == "float.tif" else 0 for name in kinds]
    for place in (3, 4):
        np.testing.assert_allclose(images[place, 0].numpy() * 127.5 + 123.68, gray / 257, atol=0.51)


def test_options_that_the_accelerator_lacks_are_refused(tree):
    with pytest.raises(ConfigError, match="'data.images_on' accelerator cannot do data.source digits"):
        small_config("image", data__images_on="accelerator")
    folder = {"data__source": "folder", "data__name": "pets", "data__images_on": "accelerator"}
    folder |= {"model__in_channels": 3, "data__mean": [0.0] * 3, "data__std": [1.0] * 3}
    with pytest.raises(ConfigError, match="cannot do data.crop random_resized"):
        small_config("image", data__crop="random_resized", **folder)
