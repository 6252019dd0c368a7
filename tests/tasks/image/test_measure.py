"""Images in the layouts that people have, measured and opened; shares that are held out; training on a part."""

import csv
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from novobench.errors import DataError
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.manifests import ManifestSource
from novobench.tasks.image.splits import Splits
from tests.own_data import open_measured, write_images

COUNTS = {"ant": 8, "bee": 7}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    return tmp_path


def tree(folder, *splits):
    for split in splits:
        write_images(folder / split, COUNTS)


def table(path, rows, *header, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def listed(folder, *splits):
    """Images in one folder, and a table per split that lists them."""
    tree(folder, "pictures")
    files = sorted((folder / "pictures").rglob("*.png"))
    for split in splits:
        rows = [(str(file.relative_to(folder)), file.parent.name) for file in files]
        table(folder / f"{split}.csv", rows, "Path", "label")


def parquet(folder, *splits):
    tree(folder.parent / "raw", "all")
    files = sorted((folder.parent / "raw").rglob("*.png"))
    folder.mkdir()
    for split in splits:
        rows = {"img": [str(file) for file in files], "class": [file.parent.name for file in files]}
        data = datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image())
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


@pytest.mark.parametrize(
    ("make", "splits", "source", "sizes"),
    [
        (tree, ("train", "val"), "folder", (13, 2, 15)),
        (tree, ("train", "test"), "folder", (13, 2, 15)),
        (tree, ("train", "valid", "test"), "folder", (15, 15, 15)),
        (tree, ("Train", "Validation", "Test"), "folder", (15, 15, 15)),
        (tree, ("",), "folder", (11, 2, 2)),
        (listed, ("train", "dev", "test"), "manifest", (15, 15, 15)),
        (listed, ("labels",), "manifest", (11, 2, 2)),
        (parquet, ("train", "test"), "hub", (13, 2, 15)),
    ],
)
def test_layouts(make, splits, source, sizes, root):
    make(root / "mine", *splits)
    measured, config, data = open_measured("image", path="mine")
    assert config.data.source == source
    assert data.counts == dict(zip(("train", "search", "test"), sizes, strict=True))
    assert config.model.classes == 2
    notes = " ".join(measured.notes)
    assert ("no test split" in notes) == (len(splits) == 1)
    assert ("no validation split" in notes) == (len(splits) < 3)


def test_held_out_shares_are_disjoint_complete_and_fixed(root):
    tree(root / "mine", "")
    config = ImageDataConfig(name="mine", train_split=".", test_split="", search_size=2, test_size=3, train_size=10)
    shares = Splits(config, root).shares()
    assert [len(share) for share in shares] == [10, 2, 3]
    assert sorted(np.concatenate(shares)) == list(range(15))
    again = Splits(config, root).shares()
    assert all(np.array_equal(one, other) for one, other in zip(shares, again, strict=True))


def test_too_large_shares_are_an_error(root):
    tree(root / "mine", "")
    with pytest.raises(
        DataError, match=r"15 images in split '\.', but data.search_size 2 and data.test_size 13 are held"
    ):
        open_measured("image", path="mine", test_size=13)


def test_a_validation_folder_with_an_unusual_name(root):
    tree(root / "mine", "train", "test", "holdout")
    _, config, data = open_measured("image", path="mine", search_split="holdout")
    assert config.data.search_split == "holdout"
    assert data.counts == {"train": 15, "search": 15, "test": 15}


def test_the_first_frame_of_a_gif_in_any_case(root):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = root / "mine" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                frames[0].save(folder / f"{number}.GIF", format="GIF", save_all=True, append_images=frames[1:])
    _, _, data = open_measured("image", path="mine")
    assert data.counts == {"train": 5, "search": 1, "test": 6}
    source = data.evaluation_sets[-1].dataset.source
    assert (source.read(0) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("size", "crop", "side"),
    [((24, 24), "pad_shift", 24), ((24, 30), "random_resized", 32), ((60, 60), "random_resized", 32)],
)
def test_small_squares_are_shifted_and_others_cropped_and_resized(size, crop, side, root):
    for split in ("train", "test"):
        write_images(root / "mine" / split, COUNTS, *size)
    _, config, data = open_measured("image", path="mine")
    assert (config.data.crop, config.data.image_size) == (crop, side)
    assert data.evaluation_sets[0].dataset[0].image.shape == (3, side, side)


def test_large_images_are_shrunk_with_antialiasing(root):
    tree(root / "mine", "train", "test")
    assert not open_measured("image", path="mine")[1].data.antialias
    shutil.rmtree(root / "mine")
    for split in ("train", "test"):
        write_images(root / "mine" / split, COUNTS, 90, 80)
    assert open_measured("image", path="mine")[1].data.antialias


def manifest(root, rows, *header):
    (root / "mine").mkdir(exist_ok=True)
    table(root / "mine" / "train.csv", rows, *header)
    return ManifestSource(ImageDataConfig(source="manifest", name="mine"), root, "train")


def test_labels_of_a_table_are_numbered_as_numbers_or_text(root):
    files = [("a.png", label) for label in ("10", "9", "10", "0")]
    numbers = manifest(root, files, "file", "class")
    assert (numbers.classes, numbers.labels.tolist()) == (["0", "9", "10"], [2, 1, 2, 0])
    texts = manifest(root, [("a.png", "b10"), ("b.png", "b9")], "file", "class")
    assert (texts.classes, texts.labels.tolist()) == (["b10", "b9"], [0, 1])


def test_files_of_a_table_lie_next_to_it_or_in_a_usual_folder(root):
    write_images(root / "mine" / "images", {"x": 1})
    source = manifest(root, [("x/0.png", "x")], "image", "label")
    assert source.encoded(0) == root / "mine" / "images" / "x" / "0.png"
    assert source.read(0).shape[2] == 3


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("a.png", "")], ("file", "label"), r"train\.csv line 2 has no label"),
        ([("a.png", "x")], ("file", "kind"), r"no column of labels; its header has file, kind. Call the column label"),
        ([("a.png", "x")], ("where", "label"), r"no column of image files; .* Call the column image"),
    ],
)
def test_a_table_that_lacks_something_is_one_line(rows, header, message, root):
    with pytest.raises(DataError, match=message):
        manifest(root, rows, *header)


def test_a_limit_trains_on_the_first_images_of_a_fixed_shuffle(root):
    tree(root / "mine", "train", "test")
    seen = {}
    for limit in (4, 8):
        _, config, data = open_measured("image", path="mine", limit=limit)
        assert config.data.used_size == len(data.train) == limit
        assert config.epoch_updates == 1
        seen[limit] = set(data.train.indices.tolist())
        assert data.counts["test"] == 15
    assert seen[4] < seen[8]
    held_out = set(data.evaluation_sets[0].dataset.indices.tolist())
    assert not seen[8] & held_out
