"""Samples of digits, folders and hub data sets, the same from folder and hub, with one clear message for each error."""

import dataclasses

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from novobench.errors import DataError
from novobench.tasks.image.batches import SKIPPED_LABEL
from novobench.tasks.image.builtin import _corpus
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.data import EvaluationImages, TrainingImages, open_images
from novobench.tasks.image.sources import FolderSource
from novobench.tasks.sampling import SampleKey

DIGITS = ImageDataConfig(source="digits", name="digits-mild", train_size=1040, search_size=160, test_size=2985)
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A small ImageFolder tree: 3 classes × 6 training and 2 test images of different shapes."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in CLASSES:
            (root / "tiny" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, size=(40 + 3 * i, 50 - 2 * i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "tiny" / split / name / f"{i}.png")
    return root


def tiny(**changes):
    settings = {
        "source": "folder",
        "name": "tiny",
        "train_size": 14,
        "search_size": 4,
        "test_size": 6,
        "image_size": 24,
    }
    return ImageDataConfig(**{**settings, "resize_size": 32, **changes})


# ------------------------------------------------------------------------------------ digits


def test_digits_have_the_declared_sizes_and_do_not_overlap():
    splits = open_images(DIGITS, None, seed=0)
    assert splits.counts == {"train": 1040, "search": 800, "test": 2985}
    images, _ = _corpus()
    assert len(images) == 1797 == 1040 + 160 + 597


def test_the_fixed_test_images_do_not_depend_on_the_seed():
    one, two = (open_images(DIGITS, None, seed=seed).test for seed in (0, 1))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images[0], one.images[597])  # another corruption of the same image
    assert one.labels[0] == one.labels[597]


def test_the_probe_has_training_images_changed_as_test_images_are():
    """Without corruption they are the first training images, in order. With it they do not depend on the seed."""
    assert open_images(DIGITS, None, seed=0).probe is None
    config = dataclasses.replace(DIGITS, name="digits-plain", test_size=597, probe_size=30)
    images, labels = _corpus()
    plain = open_images(config, None, seed=0).probe
    assert torch.equal(plain.images, images[597 + 160 :][:30])
    assert torch.equal(plain.labels, labels[597 + 160 :][:30])
    one, two = (open_images(dataclasses.replace(DIGITS, probe_size=30), None, seed=seed).probe for seed in (0, 1))
    assert torch.equal(one.images, two.images)
    assert len(one) == 30 * 5
    assert not torch.equal(one.images[0], one.images[30])  # another corruption of the same image


def test_a_training_image_depends_only_on_its_key():
    train = open_images(DIGITS, None, seed=3).train
    keys = [SampleKey(2, sample) for sample in (5, 900, 17)]
    together = train.__getitems__(keys)
    for sample, key in zip(together, keys, strict=True):
        alone = train[key]
        assert torch.equal(sample.image, alone.image)
        assert (sample.label, sample.sample) == (alone.label, key.sample)
    assert not torch.equal(train[SampleKey(2, 5)].image, train[SampleKey(3, 5)].image)


def test_corruption_has_the_declared_strength():
    plain = open_images(dataclasses.replace(DIGITS, name="digits-plain", search_size=160, test_size=597), None, seed=0)
    mild = open_images(DIGITS, None, seed=0)
    clean = plain.test.images
    noise = mild.test.images[:597] - clean
    corner = noise[:, 0, 0, 0]  # background in most images, so only noise
    assert 1.4826 * corner.abs().median().item() == pytest.approx(0.25, abs=0.03)
    shifted = torch.stack([plain.train[SampleKey(0, i)].image for i in range(300)])
    original = plain.train.images[:300]
    unmoved = (shifted == original).flatten(1).all(1).float().mean().item()
    assert unmoved == pytest.approx(1 / 9, abs=0.08)


def test_wrong_sizes_and_names_are_errors():
    with pytest.raises(DataError, match="has 1040 train images, but data.train_size is 1200"):
        open_images(dataclasses.replace(DIGITS, train_size=1200), None, seed=0)
    with pytest.raises(DataError, match="'digits-hard' is not a built-in image set. .*: digits-plain, digits-mild"):
        open_images(dataclasses.replace(DIGITS, name="digits-hard"), None, seed=0)


# ------------------------------------------------------------------------------------ folders


def test_folder_counts_and_normalization(tree):
    assert open_images(tiny(), tree, seed=0).counts == {"train": 14, "search": 4, "test": 6}
    config = tiny(crop="none", flip=False)
    train = TrainingImages(FolderSource(config, tree, "train"), np.arange(18), config, seed=0)
    key = SampleKey(0, 3)
    image, label, sample = train[key]
    assert sample == 3
    file = tree / "tiny" / "train" / train.source.files[train.indices[3]]
    pixels = np.asarray(Image.open(file)).astype(np.float64)
    expected = (pixels - [123.68, 116.78, 103.94]) / 127.5
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-6)
    assert CLASSES[label] == file.parent.name


def test_evaluation_resizes_the_short_side_and_crops_the_center(tree):
    splits = open_images(tiny(mean=[0, 0, 0], std=[1, 1, 1]), tree, seed=0)
    image = splits.test[0].image
    pixels = np.asarray(Image.open(splits.test.source.name(0))).astype(np.float64)  # 40 × 50
    resized = bilinear(pixels, 32, 40)
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), resized[4:28, 8:32], atol=1e-3)


def bilinear(pixels, height, width):
    """Bilinear resize with pixel centers at halves and no antialiasing, written out."""

    def places(old, new):
        x = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(x).astype(int)
        return low, np.minimum(low + 1, old - 1), x - low

    (t, b, v), (left, r, h) = places(pixels.shape[0], height), places(pixels.shape[1], width)
    v, h = v[:, None, None], h[None, :, None]
    top = pixels[t][:, left] * (1 - h) + pixels[t][:, r] * h
    bottom = pixels[b][:, left] * (1 - h) + pixels[b][:, r] * h
    return top * (1 - v) + bottom * v


def test_training_crops_depend_only_on_key_and_seed(tree):
    splits = open_images(tiny(), tree, seed=0)
    state = torch.get_rng_state()
    one = splits.train[SampleKey(0, 1)].image
    assert torch.equal(one, splits.train[SampleKey(0, 1)].image)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from the global generator
    assert not torch.equal(one, splits.train[SampleKey(1, 1)].image)
    assert not torch.equal(one, open_images(tiny(), tree, seed=1).train[SampleKey(0, 1)].image)
    assert one.shape == (3, 24, 24)


def test_the_samplers_crop_differently_from_the_same_keys(tree):
    one, two = (open_images(tiny(crop_sampler=rule), tree, seed=0).train for rule in ("torchvision", "tensorflow"))
    assert torch.equal(two[SampleKey(0, 1)].image, two[SampleKey(0, 1)].image)
    assert not torch.equal(one[SampleKey(0, 1)][0], two[SampleKey(0, 1)].image)
    assert two[SampleKey(0, 1)].image.shape == (3, 24, 24)


def test_pad_and_shift_moves_an_image_inside_its_border(tree, tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "cifar" / split / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (24, 24), (255, 255, 255)).save(tmp_path / "cifar" / split / name / f"{i}.png")
    config = tiny(
        name="cifar", crop="pad_shift", crop_padding=4, train_size=16, search_size=0, test_size=16, resize_size=24,
        mean=[0, 0, 0], std=[255, 255, 255],
    )  # fmt: skip
    train = open_images(config, tmp_path, seed=0).train
    sums = {int(train[SampleKey(epoch, i)].image[0].sum()) for epoch in range(40) for i in range(16)}
    assert max(sums) == 24 * 24
    assert min(sums) >= 20 * 20
    assert len(sums) > 5


def test_the_probe_of_a_folder_has_all_classes_and_is_not_augmented(tree):
    config = tiny(search_size=0, train_size=18, probe_size=3)
    splits = open_images(config, tree, seed=0)
    assert [splits.probe[i].label for i in range(3)] == [0, 1, 2]
    whole = EvaluationImages(FolderSource(config, tree, "train"), np.arange(18), config)
    for i in range(3):
        assert torch.equal(splits.probe[i].image, whole[6 * i].image)


def test_search_images_are_held_out_of_training(tree):
    splits = open_images(tiny(), tree, seed=0)
    assert set(splits.train.indices) | set(splits.search.indices) == set(range(18))
    assert not set(splits.train.indices) & set(splits.search.indices)
    other = open_images(tiny(), tree, seed=5)
    assert np.array_equal(splits.search.indices, other.search.indices)


def test_loader_workers_do_not_change_the_images(tree):
    train = open_images(tiny(), tree, seed=0).train
    keys = [[SampleKey(0, i) for i in range(j, j + 4)] for j in range(0, 12, 4)]
    runs = [
        list(torch.utils.data.DataLoader(train, batch_sampler=keys, num_workers=n, multiprocessing_context=context))
        for n, context in ((0, None), (2, "forkserver"))
    ]
    for one, two in zip(*runs, strict=True):
        assert all(map(torch.equal, one, two))


# ------------------------------------------------------------------------------------ hub


@pytest.fixture(scope="module")
def parquet(tree):
    """The same images as parquet files of CIFAR-10's hub schema."""
    for split, name in (("train", "train"), ("val", "test")):
        files = [p for c in CLASSES for p in sorted((tree / "tiny" / split / c).iterdir())]
        labels = [CLASSES.index(p.parent.name) for p in files]
        rows = {"img": [{"bytes": p.read_bytes(), "path": None} for p in files], "label": labels}
        table = datasets.Dataset.from_dict(
            rows,
            features=datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}),
        )
        (tree / "hub").mkdir(exist_ok=True)
        table.to_parquet(str(tree / "hub" / f"{name}-00000-of-00001.parquet"))
    return tree


def hub(**changes):
    return tiny(**{"source": "hub", "path": "hub", "test_split": "test", "image_column": "img", **changes})


def test_parquet_gives_the_same_samples_as_the_folder(parquet):
    folder, table = open_images(tiny(), parquet, seed=0), open_images(hub(), parquet, seed=0)
    assert folder.counts == table.counts
    for i in range(14):
        one, other = (s.train[SampleKey(1, i)] for s in (folder, table))
        assert torch.equal(one.image, other.image)
        assert one.label == other.label
    for i in range(6):
        assert torch.equal(folder.test[i].image, table.test[i].image)


def test_a_wrong_column_or_split_names_the_right_ones(parquet):
    with pytest.raises(DataError, match="no column 'image'.*It holds: img, label"):
        open_images(hub(image_column="image"), parquet, seed=0)
    with pytest.raises(DataError, match=r'hub\[validation\].*Unknown split "validation"'):
        open_images(hub(test_split="validation"), parquet, seed=0)


# ------------------------------------------------------------------------------------ errors


def test_missing_folders_are_named(tree):
    with pytest.raises(DataError, match="No data folder .*/nowhere for 'tiny'.*NOVOBENCH_DATA"):
        open_images(tiny(path="nowhere"), tree, seed=0)
    with pytest.raises(DataError, match="has no split 'valid'. Did you mean 'val'.*It holds: train, val"):
        open_images(tiny(test_split="valid"), tree, seed=0)


def test_an_empty_class_and_differing_classes_are_named(tmp_path, tree):
    for split, names in (("train", ["a", "b"]), ("val", ["a", "c"])):
        for name in names:
            (tmp_path / "odd" / split / name).mkdir(parents=True)
            Image.new("RGB", (30, 30)).save(tmp_path / "odd" / split / name / "0.png")
    with pytest.raises(DataError, match="odd/val has classes that .*odd/train lacks: c; its classes are a, b"):
        open_images(tiny(name="odd"), tmp_path, seed=0)
    (tmp_path / "odd" / "train" / "b" / "0.png").unlink()
    with pytest.raises(DataError, match="odd/train/b is an empty class"):
        open_images(tiny(name="odd"), tmp_path, seed=0)


def test_a_corrupt_image_is_named_or_skipped(tmp_path, caplog):
    for split in ("train", "val"):
        (tmp_path / "bad" / split / "a").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (30, 30), (i, i, i)).save(tmp_path / "bad" / split / "a" / f"{i}.jpg")
    broken = tmp_path / "bad" / "train" / "a" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    settings = tiny(name="bad", train_size=3, search_size=0, test_size=3)
    with pytest.raises(DataError, match=r"bad/train/a/1.jpg cannot be decoded.*on_bad_image=skip"):
        open_images(settings, tmp_path, seed=0).train[SampleKey(0, 1)]
    train = open_images(dataclasses.replace(settings, on_bad_image="skip"), tmp_path, seed=0).train
    assert [train[SampleKey(0, i)].label for i in range(3)] == [0, SKIPPED_LABEL, 0]
    assert train[SampleKey(0, 1)].image.shape == train[SampleKey(0, 0)].image.shape
    assert "1.jpg" in caplog.text


def test_gray_and_cmyk_images_become_rgb(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "modes" / split / "a").mkdir(parents=True)
        for mode in ("L", "CMYK", "RGB"):
            Image.new(mode, (30, 30)).save(tmp_path / "modes" / split / "a" / f"{mode}.jpg")
    splits = open_images(tiny(name="modes", train_size=3, search_size=0, test_size=3), tmp_path, seed=0)
    assert {splits.test[i].image.shape for i in range(3)} == {(3, 24, 24)}
