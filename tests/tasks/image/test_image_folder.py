"""ImageFolder trees in practice: links, unreadable folders, and class names of every kind."""

import dataclasses
import errno
import logging
import os
import unicodedata

import pytest

from novobench.errors import DataError
from novobench.tasks.image.data import identify, open_images
from novobench.tasks.image.sources import FolderSource
from tests.tasks.image.pets import PETS, save


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))


def files(pets):
    return FolderSource(PETS, pets.parent, "train").files


def test_links_to_a_folder_above_are_skipped_and_others_followed(pets, caplog):
    before = files(pets)
    dog = pets / "train" / "dog"
    (dog / "self").symlink_to(".")
    (dog / "up").symlink_to("../../train")
    (dog / "more").mkdir()
    save(dog / "more" / "2.png")
    (dog / "more" / "back").symlink_to(dog)
    (pets.parent / "elsewhere").mkdir()
    save(pets.parent / "elsewhere" / "3.png")
    (dog / "linked").symlink_to(pets.parent / "elsewhere")
    (dog / "odd").symlink_to("odd")
    with caplog.at_level(logging.WARNING):
        assert files(pets) == sorted([*before, "dog/linked/3.png", "dog/more/2.png"])
    for name in ("self", "up", "more/back"):
        assert f"{dog}/{name}: it leads back to a folder above it" in caplog.text


def test_a_class_that_is_a_broken_link_is_an_error(pets):
    (pets / "train" / "emu").symlink_to("/mnt/away/emu")
    with pytest.raises(DataError, match="train/emu is a link to /mnt/away/emu, which does not exist: a class may be"):
        files(pets)
    (pets / "train" / "emu").unlink()
    (pets / "train" / ".hidden").symlink_to("nowhere")
    assert len(files(pets)) == 4


@pytest.mark.parametrize("below", ["", "dog", "dog/more"])
@pytest.mark.parametrize("kind", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_listed_is_an_error(pets, below, kind, monkeypatch):
    save(pets / "train" / "dog" / "more" / "2.png")
    original = os.scandir

    def failing(path):
        if str(path).rstrip("/") == str(pets / "train" / below).rstrip("/"):
            raise OSError(kind, os.strerror(kind), str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(DataError, match=rf"Cannot list {pets / 'train' / below}: {os.strerror(kind)}"):
        files(pets)


def test_a_class_has_the_same_name_in_every_unicode_form(pets):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split in ("train", "val"):
        (pets / split / "cat").rename(pets / split / composed)
    before = identify(PETS, pets.parent)
    (pets / "val" / composed).rename(pets / "val" / decomposed)
    assert identify(PETS, pets.parent) == before
    assert open_images(PETS, pets.parent, seed=0).test[0].label == 0
    (pets / "train" / composed).rename(pets / "train" / decomposed)
    assert identify(PETS, pets.parent) == before
    save(pets / "train" / composed / "9.png")
    with pytest.raises(DataError, match=r"train has two folders whose names look the same .*'cafe\\u0301'.*'caf\\xe9'"):
        files(pets)


def test_classes_that_differ_only_in_case_are_reported(pets, caplog):
    (pets / "val" / "cat").rename(pets / "val" / "Cat")
    with pytest.raises(DataError, match="val has classes that .* lacks: Cat; .* cat, dog. They differ only in upper"):
        open_images(PETS, pets.parent, seed=0)
    save(pets / "train" / "Cat" / "0.png")
    with caplog.at_level(logging.WARNING):
        assert FolderSource(PETS, pets.parent, "train").classes == ["Cat", "cat", "dog"]
    assert "classes that differ only in upper and lower case: Cat and cat" in caplog.text


def test_classes_and_splits_with_names_of_any_bytes(pets):
    for split in ("train", "val"):
        os.rename(pets / split / "cat", os.fsencode(pets / split) + b"/c\xe4t")
    os.rename(pets / "val", os.fsencode(pets) + b"/v\xe4l")
    splits = open_images(dataclasses.replace(PETS, test_split="v\udce4l"), pets.parent, seed=0)
    assert splits.test.source.classes == ["c\udce4t", "dog"]
    assert [splits.test[i].label for i in range(2)] == [0, 1]
    assert splits.test.source.name(0).endswith(r"pets/v\xe4l/c\xe4t/0.png")
    with pytest.raises(DataError, match=r"has no split 'val'.*It holds: train, v\\xe4l"):
        open_images(PETS, pets.parent, seed=0)


@pytest.mark.parametrize(
    "odd", ["a[x]b", "st*r", "qu?", "{a,b}", "sp ace", "a::b", "%20", "#", "**", "a'b\"", "a\nb", "~"]
)
def test_a_data_root_with_any_name(pets, odd):
    (pets.parent / odd).mkdir()
    pets.rename(pets.parent / odd / "pets")
    assert len(FolderSource(PETS, pets.parent / odd, "train").files) == 4
