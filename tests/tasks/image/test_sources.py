"""Image sources in practice: stray entries, labels of all kinds, identity by content, splits, counts, sizes."""

import dataclasses
import io
import logging
import os

import datasets
import numpy as np
import pytest
from PIL import Image

from novobench import places
from novobench.config import cell_id
from novobench.config_loading import load_tree, override, parse_overrides
from novobench.errors import ConfigError, DataError
from novobench.tasks.catalog import resolve
from novobench.tasks.image import decoding
from novobench.tasks.image.batches import SKIPPED_LABEL
from novobench.tasks.image.config import ImageDataConfig, ImageModelConfig
from novobench.tasks.image.data import identify, open_images
from novobench.tasks.image.sources import FolderSource, HubSource
from novobench.tasks.sampling import SampleKey
from tests.cells import small_config

SIDE = 8
PETS = ImageDataConfig(
    source="folder", name="pets", train_size=8, search_size=0, test_size=4, image_size=SIDE, resize_size=SIDE
)
NETWORK = ImageModelConfig(classes=2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))


def pixels(seed, size=(SIDE, SIDE)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path, seed=0, size=(SIDE, SIDE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path)


@pytest.fixture
def pets(tmp_path):
    """2 classes × 4 training and 2 test images, no two alike."""
    for start, split, count in ((0, "train", 4), (100, "val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                save(tmp_path / "pets" / split / name / f"{i}.png", start + 10 * label + i)
    return tmp_path / "pets"


def opened(pets, model=NETWORK, **changes):
    return open_images(dataclasses.replace(PETS, **changes), pets.parent, seed=0, model=model)


# ------------------------------------------------------------------------------------ entries of a tree


def test_hidden_and_stray_entries_are_neither_classes_nor_images(pets):
    for split in ("train", "val"):
        for stray in (".ipynb_checkpoints/0.png", "__MACOSX/cat/._0.png", "cat/._0.png", "cat/.cache/0.png"):
            save(pets / split / stray)
        (pets / split / ".DS_Store").write_bytes(b"x")
        (pets / split / "dog" / ".DS_Store").write_bytes(b"x")
    before = FolderSource(PETS, pets.parent, "train")
    assert before.classes == ["cat", "dog"]
    assert before.files == [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)]
    assert opened(pets).counts == {"train": 8, "search": 0, "test": 4}


def test_files_with_image_suffixes_are_images_and_others_are_reported(pets, caplog):
    for ending in ("gif", "TIF", "tiff", "jpe", "jfif", "webp", "bmp", "JPG"):
        save(pets / "train" / "cat" / f"x.{ending}")
    save(pets / "train" / "dog" / "more" / "0.png")  # below a class, as in Tiny ImageNet
    (pets / "train" / "dog" / "notes.heic").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        train = FolderSource(PETS, pets.parent, "train")
    assert np.bincount(train.labels).tolist() == [12, 5]
    assert all(train.read(i).shape == (SIDE, SIDE, 3) for i in range(17))
    assert "Skipped 1 files of" in caplog.text
    assert "e.g. dog/notes.heic. Suffixes of images: .jpg" in caplog.text


def test_a_class_without_images_names_another_file(pets):
    for path in (pets / "train" / "cat").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"train/cat is an empty class: no image in it with suffix .*but e.g. 0.heic"):
        opened(pets)


def test_a_file_name_of_any_bytes_is_read_and_printable(pets):
    odd = os.fsencode(pets / "train" / "dog") + b"/caf\xe9.png"
    os.rename(pets / "train" / "dog" / "3.png", odd)
    train = opened(pets).train
    assert len(train) == 8
    assert train.source.name(7).encode().endswith(b"/caf\\xe9.png")
    with open(odd, "wb"):
        pass
    with pytest.raises(DataError, match=r"caf\\xe9.png cannot be decoded"):
        _ = opened(pets).train[SampleKey(0, 7)]


# ------------------------------------------------------------------------------------ splits


def test_an_own_validation_folder_is_the_search_split(pets):
    (pets / "val").rename(pets / "test")
    for name in ("cat", "dog"):
        save(pets / "valid" / name / "0.png", 200)
    with pytest.raises(DataError, match=r"no split 'val'.*It holds: test, train, valid. Set data.test_split=test"):
        opened(pets)
    with pytest.raises(DataError, match="It also holds valid; data.test_split and data.search_split choose splits"):
        opened(pets, test_split="test", train_size=9)
    own = {"test_split": "test", "search_split": "valid"}
    splits = opened(pets, **own, search_size=2)
    assert splits.counts == {"train": 8, "search": 2, "test": 4}
    assert [splits.search[i].label for i in range(2)] == [0, 1]
    assert splits.search.source.folder == pets / "valid"
    assert identify(dataclasses.replace(PETS, **own), pets.parent) == splits.fingerprint
    with pytest.raises(DataError, match="2 search images, but data.search_size is 0.*--set data.search_size=2$"):
        opened(pets, **own)


def test_a_search_split_with_a_second_role_is_refused():
    folder = {"data__source": "folder", "data__name": "pets", "model__in_channels": 3}
    with pytest.raises(ConfigError, match="'data.search_split' val is also data.test_split"):
        small_config("image", data__search_split="val", **folder)
    with pytest.raises(ConfigError, match="'data.search_split' val: source digits has no splits"):
        small_config("image", data__search_split="val")


def test_a_class_may_be_absent_from_the_test_split_but_none_may_be_new(pets):
    for path in (pets / "val" / "cat").iterdir():
        path.unlink()
    (pets / "val" / "cat").rmdir()
    splits = opened(pets, test_size=2)
    assert [splits.test[i].label for i in range(2)] == [1, 1]  # dogs, although the first class of this split
    save(pets / "val" / "emu" / "0.png")
    with pytest.raises(DataError, match="val has classes that .*train lacks: emu; its classes are cat, dog"):
        opened(pets, test_size=3)


# ------------------------------------------------------------------------------------ counts


def test_all_wrong_counts_are_reported_at_once_with_options_that_work(pets):
    wrong = {"train_size": 45_000, "search_size": 5_000, "test_size": 10_000}
    with pytest.raises(DataError) as raised:
        opened(pets, ImageModelConfig(classes=10, in_channels=1), **wrong)
    assert (
        "has 0 train images, but data.train_size is 45000, 8 images in split 'train' in all, but data.search_size is "
        "5000, 4 test images, but data.test_size is 10000, 2 classes, but model.classes is 10, 3 channels per image, "
        "but model.in_channels is 1."
    ) in str(raised.value)
    options = parse_overrides(str(raised.value).partition("--set ")[2].split())
    data = {key.removeprefix("data."): value for key, value in options.items() if key.startswith("data.")}
    assert data == {"train_size": 7, "search_size": 1, "test_size": 4}  # a tenth is held out, as in the config
    model = {key.removeprefix("model."): value for key, value in options.items() if key.startswith("model.")}
    assert opened(pets, ImageModelConfig(**model), **data).counts == {"train": 7, "search": 1, "test": 4}


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_a_wrong_number_of_classes_is_an_error(pets, classes):
    with pytest.raises(DataError, match=f"has 2 classes, but model.classes is {classes}.*--set model.classes=2$"):
        opened(pets, ImageModelConfig(classes=classes))


def test_digits_without_training_images_are_an_error():
    digits = ImageDataConfig(source="digits", name="digits-plain", train_size=1040, search_size=1300, test_size=597)
    with pytest.raises(DataError, match="0 train images.*1200 images in split 'train' in all.*search_size is 1300"):
        open_images(digits, None, seed=0, model=ImageModelConfig(classes=10, in_channels=1))
    digits = dataclasses.replace(digits, search_size=160)
    with pytest.raises(DataError, match="10 classes, but model.classes is 2, 1 channels per.*model.in_channels=1$"):
        open_images(digits, None, seed=0, model=NETWORK)


# ------------------------------------------------------------------------------------ labels of a table


def table(folder, split, labels, kind, named=False):
    """A parquet file of images whose labels have the type `kind`."""
    rows = []
    for i, label in enumerate(labels):
        file = io.BytesIO()
        Image.fromarray(pixels(i + 1000 * len(split))).save(file, "png")
        if named:
            (folder.parent / f"{split}-{i}.png").write_bytes(file.getvalue())
        encoded = None if named else file.getvalue()
        path = f"../{split}-{i}.png" if named else None
        rows.append({"image": {"bytes": encoded, "path": path}, "label": label})
    image = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    folder.mkdir(exist_ok=True)
    rows_table = datasets.Dataset.from_list(rows, features=datasets.Features({"image": image, "label": kind}))
    rows_table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


HUB = dataclasses.replace(PETS, source="hub", path="table", test_split="test")
NAMED = datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (NAMED, [0, 1]),
        (datasets.Value("string"), ["cat", "dog"]),
        (datasets.Value("int64"), [1, 2]),
        (datasets.Value("uint8"), [9, 10]),
        (datasets.Value("bool"), [False, True]),
    ],
)
@pytest.mark.parametrize("images_on", ["loader", "accelerator"])
def test_classes_are_the_training_splits_sorted_values(tmp_path, kind, values, images_on):
    table(tmp_path / "table", "train", [values[i % 2] for i in (1, 0, 0, 1, 0, 1, 1, 0)], kind)
    table(tmp_path / "table", "test", [values[1]] * 4, kind)  # the first class is absent: the numbers do not change
    changes = {"crop": "none", "images_on": images_on}
    splits = open_images(dataclasses.replace(HUB, **changes), tmp_path, seed=0, model=NETWORK)
    if images_on == "loader":
        assert [splits.train[SampleKey(0, i)].label for i in range(8)] == [1, 0, 0, 1, 0, 1, 1, 0]
        assert [splits.test[i].label for i in range(4)] == [1] * 4
    else:
        assert splits.train.labels.tolist() == [1, 0, 0, 1, 0, 1, 1, 0]
        assert splits.test.labels.tolist() == [1] * 4


@pytest.mark.parametrize("images_on", ["loader", "accelerator"])
@pytest.mark.parametrize(
    ("kind", "values", "odd", "message"),
    [
        (NAMED, [0, 1], -1, "row 3 has label -1 in column 'label'.*Data sets of the hub use -1"),
        (NAMED, [0, 1], None, "row 3 has no label in column 'label'"),
        (datasets.Value("int64"), [0, 1], -1, "row 3 has label -1 in column 'label'"),
        (datasets.Value("string"), ["cat", "dog"], " ", "row 3 has no label in column 'label'"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_without_label_is_an_error_that_names_the_key(tmp_path, images_on, kind, values, odd, message, split):
    for name, count in (("train", 8), ("test", 4)):
        labels = [values[i % 2] for i in range(count)]
        if name == split:
            labels[3] = odd
        table(tmp_path / "table", name, labels, kind)
    config = dataclasses.replace(HUB, crop="none", images_on=images_on, on_bad_image="skip")
    with pytest.raises(DataError, match=rf"table\[{split}\] {message}.*Set data.label_column, or data.{split}_split"):
        open_images(config, tmp_path, seed=0, model=NETWORK)


def test_columns_of_the_wrong_type_are_named(tmp_path):
    table(tmp_path / "table", "train", [0.5] * 8, datasets.Value("float32"))
    table(tmp_path / "table", "test", [0.5] * 4, datasets.Value("float32"))
    with pytest.raises(DataError, match=r"column 'label' holds Value\('float32'\), not classes.*label_column"):
        open_images(HUB, tmp_path, seed=0)
    with pytest.raises(DataError, match=r"column 'label' holds Value\('float32'\), not images.*image_column"):
        open_images(dataclasses.replace(HUB, image_column="label"), tmp_path, seed=0)


def test_the_skipped_label_is_no_label_of_a_data_set():
    assert SKIPPED_LABEL < -1000


def test_rows_that_name_files_are_read_or_name_the_missing_file(tmp_path):
    table(tmp_path / "table", "train", [0, 1] * 4, NAMED, named=True)
    table(tmp_path / "table", "test", [0, 1] * 2, NAMED)
    first = open_images(HUB, tmp_path, seed=0)
    assert np.array_equal(first.train.source.read(2), pixels(5002))
    save(tmp_path / "train-2.png", 1)
    assert identify(HUB, tmp_path) != first.fingerprint  # the table is the same, the file is not
    (tmp_path / "train-2.png").unlink()
    with pytest.raises(DataError, match=r"\[train\] row 2 cannot be decoded: its row holds no bytes but the path of"):
        _ = open_images(HUB, tmp_path, seed=0).train[SampleKey(0, 2)]


# ------------------------------------------------------------------------------------ identity


def test_the_fingerprint_depends_on_images_and_labels_but_not_on_paths(pets, monkeypatch):
    original = opened(pets).fingerprint
    monkeypatch.setattr(decoding.Image, "open", lambda *_: pytest.fail("opened a picture"))
    assert identify(PETS, pets.parent) == original
    path = pets / "val" / "dog" / "1.png"
    content, about = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # name, size and time as before
    assert identify(PETS, pets.parent) != original
    path.write_bytes(content)
    assert identify(PETS, pets.parent) == original
    pets.rename(pets.parent / "moved")
    assert identify(dataclasses.replace(PETS, path="moved"), pets.parent) == original
    (pets.parent / "moved" / "train" / "cat" / "0.png").rename(pets.parent / "moved" / "train" / "dog" / "00.png")
    assert identify(dataclasses.replace(PETS, path="moved"), pets.parent) != original


def test_a_tables_fingerprint_covers_its_images_and_is_cached(pets, monkeypatch):
    for split, name in (("train", "train"), ("val", "test")):
        files = sorted((pets / split).glob("*/*.png"))
        rows = {"image": [str(file) for file in files], "label": [int(file.parent.name == "dog") for file in files]}
        features = datasets.Features({"image": datasets.Image(), "label": NAMED})
        (pets.parent / "table").mkdir(exist_ok=True)
        rows_table = datasets.Dataset.from_dict(rows, features=features)
        rows_table.to_parquet(str(pets.parent / "table" / f"{name}-00000-of-00001.parquet"))
    original = identify(HUB, pets.parent)
    assert original == identify(PETS, pets.parent)  # the same files in the same order are the same data
    with monkeypatch.context() as patched:
        patched.setattr("novobench.tasks.hub.row_source", lambda *_: pytest.fail("read a row again"))
        assert identify(HUB, pets.parent) == original
    table(pets.parent / "table", "test", [0, 0, 1, 1], NAMED)  # other images, the same labels and counts
    assert identify(HUB, pets.parent) != original


def test_digits_are_identified_by_content():
    digits = ImageDataConfig(source="digits", name="digits-mild", train_size=1040, search_size=160, test_size=2985)
    assert identify(digits, None) == open_images(digits, None, seed=0).fingerprint == "digits-mild:87ff0c9e40dc7e2c"


# ------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("images_on", ["loader", "accelerator"])
@pytest.mark.parametrize("crop", ["pad_shift", "none"])
def test_images_of_another_size_are_an_error_if_crops_do_not_resize(pets, images_on, crop):
    way = {"images_on": images_on, "crop": crop}
    assert opened(pets, **way).counts["train"] == 8
    with pytest.raises(DataError, match=r"cat/0.png has 8 × 8 pixels: .*all images 4 × 4.*Set data.image_size=8 "):
        opened(pets, image_size=4, resize_size=4, **way)
    save(pets / "val" / "dog" / "1.png", size=(6, 9))
    with pytest.raises(DataError, match=rf"val/dog/1.png has 9 × 6 pixels: data.crop {crop} needs all.*1 of 4 are not"):
        opened(pets, **way)
    assert opened(pets).counts["test"] == 4  # random crops are resized


def test_crop_and_resize_follow_the_image_size():
    for size, crop, resize, padding in ((224, "random_resized", 256, 0), (64, "pad_shift", 64, 8), (48, "none", 48, 0)):
        config = ImageDataConfig(image_size=size, crop=crop)
        assert (config.resize_size, config.crop_padding) == (resize, padding)
    config = ImageDataConfig(image_size=64, crop="pad_shift", resize_size=72, crop_padding=0)
    assert (config.resize_size, config.crop_padding) == (72, 0)


def test_gpu_scale_uses_images_of_another_size_whole():
    """With data.image_size=64, the recipe for 32 pixels has no crop or resize of 32 left."""
    tree = load_tree(places.workspace().task_config("image", "gpu"))
    cell = {"task": "image", "seed": 0, "optimizer.name": "novograd", "optimizer.lr": 0.02}
    own = {"data.name": "mine", "data.path": "mine", "data.image_size": 64}
    before, after = (resolve(override(tree, cell | changes, "test"), "test").data for changes in ({}, own))
    assert (before.image_size, before.resize_size, before.crop_padding) == (32, 32, 4)
    assert (after.image_size, after.resize_size, after.crop_padding) == (64, 64, 8)


def test_an_id_does_not_depend_on_how_sizes_are_written():
    folder = {"data__source": "folder", "data__name": "pets", "model__in_channels": 3, "data__crop": "pad_shift"}
    ids = {
        cell_id(small_config("image", data__image_size=size, **folder, **sizes))
        for size in (64, 32)
        for sizes in ({}, {"data__resize_size": size, "data__crop_padding": size // 8})
    }
    assert len(ids) == 2
    ids.add(cell_id(small_config("image", data__image_size=64, data__crop_padding=0, **folder)))
    assert len(ids) == 3


def test_sizes_that_differ_between_training_and_evaluation_are_refused():
    folder = {"data__source": "folder", "data__name": "pets", "model__in_channels": 3, "data__resize_size": 32}
    with pytest.raises(ConfigError, match="'data.image_size' 41 is more than 'data.resize_size' 32.*resize_size=null"):
        small_config("image", data__crop="pad_shift", data__image_size=41, **folder)
    with pytest.raises(ConfigError, match="'data.crop' none trains on whole images.*resize_size 32.*image_size 24"):
        small_config("image", data__crop="none", data__image_size=24, **folder)


def test_hub_images_name_their_rows(tmp_path):
    table(tmp_path / "table", "train", [0, 1], NAMED)
    assert HubSource(HUB, tmp_path, "train").name(1) == "table[train] row 1"
