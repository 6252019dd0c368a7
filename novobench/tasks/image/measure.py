"""Measures a user's own images: which splits, how many images of which sizes, and the config that trains on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError
from novobench.files import derived_folder, write_json
from novobench.hardware import cores
from novobench.tasks.hub import open_hub, split_names
from novobench.tasks.image.config import BUILT_IN, ImageDataConfig
from novobench.tasks.image.decoding import DECODER_VERSION, BadImage, quiet
from novobench.tasks.image.image_folder import subfolders
from novobench.tasks.image.manifests import LABEL_COLUMNS
from novobench.tasks.image.sources import ImageSource
from novobench.tasks.image.splits import Splits
from novobench.tasks.inspection import Draft, Inspection, fitting_batch, grouped, held_out_size, spread, tracked
from novobench.tasks.sources import listed, splits_by_role
from novobench.tasks.tables import table_splits

_MOST_DECODED = 20_000
"""Images of a split that are decoded, to find bad ones; of more, evenly spread ones are."""
_LARGEST_SHIFTED = 96
"""Pixels: images that are all squares of at most this side are shifted instead of cropped and resized, as CIFAR's."""
_SIDES = {"laptop": 32, "gpu": 64}
"""Side of the network's images, for images of other sizes; at other scales that of the config."""


def measure(draft: Draft) -> Inspection:
    """Raises DataError if the folder has no images in a layout that novobench reads."""
    layout, notes = _layout(draft)
    data = replace(draft.data, **{key: value for key, value in layout.items() if f"data.{key}" not in draft.given})
    splits = Splits(data, draft.data_root)
    looks = [_look(source) for source in splits.sources]
    sizes = _split_sizes(data, splits)
    settings: dict[str, Any] = {f"data.{key}": getattr(data, key) for key in layout}
    settings |= {f"data.{key}": value for key, value in sizes.items()}
    settings |= {"model.classes": len(splits.train.classes), "model.in_channels": data.channels}
    settings |= _preprocessing(draft, looks)
    bad = grouped((reason, example) for look in looks for reason, example in look["bad"])
    if bad:
        settings["data.on_bad_image"] = "skip"
        notes.append("Bad images are left out and counted; --data on_bad_image=error stops at the first.")
    used = sizes["train_size"] if data.limit is None else min(data.limit, sizes["train_size"])
    batch, batch_notes = fitting_batch(draft.batch, used, "training images")
    return Inspection(settings | batch, _facts(splits, sizes, looks), bad, notes + batch_notes)


# ---------------------------------------------------------------------------------------------- layout


def _layout(draft: Draft) -> tuple[dict[str, Any], list[str]]:
    """The source and its splits, as fields of the data config, and notes."""
    data: ImageDataConfig = draft.data
    source = data.source if "data.source" in draft.given and data.source != BUILT_IN else _source(draft.folder)
    names = _split_names(source, draft)
    roles = splits_by_role(names)
    train, valid, test = (next(iter(roles[role]), "") for role in ("train", "valid", "test"))
    if not train:
        if source == "folder" and not (valid or test):
            train = "."
        elif len(names) == 1:
            train = names[0]
        else:
            raise DataError(
                f"{draft.folder} has no training split among {listed(names)}. Call it train, or add: --data "
                "train_split=NAME"
            )
    if not test:
        test, valid = valid, ""
    notes = []
    if not test and "data.test_split" not in draft.given:
        notes.append("There is no test split: a tenth of the images, drawn once with a fixed seed, is the test set.")
    if not valid and "data.search_split" not in draft.given:
        notes.append(
            "There is no validation split: a tenth of the training images, drawn with a fixed seed, is for search."
        )
    layout = {"source": source, "train_split": train, "search_split": valid, "test_split": test}
    return layout | (_columns(draft, train) if source == "hub" else {}), notes


def _columns(draft: Draft, split: str) -> dict[str, str]:
    """The columns of images and labels of a hub data set, where they have other names than the config's."""
    import datasets

    data: ImageDataConfig = draft.data
    features = open_hub(data.path, "", draft.data_root, split, {}, "data.train_split").features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels += [name for name in features if name.lower() in LABEL_COLUMNS]
    columns = {}
    for key, names in (("image_column", images), ("label_column", labels)):
        if names and getattr(data, key) not in features:
            columns[key] = names[0]
    return columns


def _source(folder: Path) -> str:
    """The kind of source that a folder's content suggests; `hub` if there is no such folder."""
    if not folder.is_dir():
        return "hub"
    folders = subfolders(folder)
    if splits_by_role(folders)["train"] and any(subfolders(folder / name) for name in folders):
        return "folder"
    if table_splits(folder):
        return "manifest"
    return "hub" if next(folder.rglob("*.parquet"), None) else "folder"


def _split_names(source: str, draft: Draft) -> list[str]:
    if source == "folder":
        return subfolders(draft.folder)
    if source == "manifest":
        return table_splits(draft.folder)
    return split_names(draft.data.path or draft.data.name, "", draft.data_root)


def _split_sizes(data: ImageDataConfig, splits: Splits) -> dict[str, int]:
    """`train_size`, `search_size` and `test_size`; those of shares are a tenth unless the user gave them."""
    images = len(splits.train.labels)
    share = held_out_size(images)
    test = share if splits.test is None else len(splits.test.labels)
    search = share if splits.search is None else len(splits.search.labels)
    train = images - (share if splits.test is None else 0) - (share if splits.search is None else 0)
    if train < 1:
        raise DataError(f"{splits.train.where} has {images} images, too few to hold some out. Add images.")
    return {"train_size": train, "search_size": search, "test_size": test}


# ---------------------------------------------------------------------------------------------- images


def _look(source: ImageSource) -> dict[str, Any]:
    """`sizes` ([width, height, count] each), `bad` ([reason, name] each) and `decoded`, once per machine and cached."""

    def build(folder: Path) -> None:
        indices = spread(len(source.labels), _MOST_DECODED)
        sizes: Counter[tuple[int, int]] = Counter()
        bad: list[tuple[str, str]] = []

        def shape(index: int) -> tuple[int, int] | str:
            try:
                return source.read(index).shape[1::-1]
            except BadImage as error:
                return str(error)

        with quiet(), ThreadPoolExecutor(cores()) as pool:
            results: Iterator[Any] = pool.map(shape, indices)
            for index, found in zip(
                indices, tracked(results, len(indices), f"Reading images of {source.where}"), strict=True
            ):
                if isinstance(found, str):
                    bad.append((found, source.name(index)))
                else:
                    sizes[found] += 1
        if len(indices) < len(source.labels):  # the crop depends on whether all have one size
            rest = np.setdiff1d(np.arange(len(source.labels)), indices)
            sizes.update((int(w), int(h)) for w, h in source.sizes(rest) if w)
        content = {"sizes": [[w, h, n] for (w, h), n in sorted(sizes.items())], "bad": bad, "decoded": len(indices)}
        write_json(folder / "look.json", content)

    folder = derived_folder(f"image/look-{DECODER_VERSION}-{source.cache_key}", build)
    return json.loads((folder / "look.json").read_text(encoding="utf-8"))


def _preprocessing(draft: Draft, looks: list[dict[str, Any]]) -> dict[str, Any]:
    """How images become the network's input: small squares of one size are shifted, others are cropped and resized."""
    sides = {side for look in looks for width, height, _ in look["sizes"] for side in (width, height)}
    if not sides:
        raise DataError("No image can be decoded. `novobench data` names the reasons.")
    (side, *others) = sorted(sides)
    small = _SIDES.get(draft.scale, draft.data.image_size)
    largest = max(_LARGEST_SHIFTED if draft.scale != "laptop" else 48, small)
    own = {key.removeprefix("data.") for key in draft.given}
    if not others and side <= largest and draft.data.crop != "none" and not own & {"image_size", "crop"}:
        shift = {"data.image_size": side, "data.crop": "pad_shift"}
        return {**shift, "data.resize_size": None, "data.crop_padding": None}
    if "crop" in own:
        return {}
    size = draft.data.image_size if "image_size" in own else small
    crop = {"data.image_size": size, "data.crop": "random_resized", "data.images_on": "loader"}
    return {**crop, "data.resize_size": None, "data.crop_padding": None, "data.antialias": min(sides) > 2 * size}


def _facts(splits: Splits, sizes: dict[str, int], looks: list[dict[str, Any]]) -> list[tuple[str, str]]:
    facts = []
    for source, look in zip(splits.sources, looks, strict=True):
        parts = []
        if source is splits.train:
            parts = [f"{sizes['train_size']:,} for training"]
            parts += [f"{sizes['search_size']:,} for search"] if splits.search is None else []
            parts += [f"{sizes['test_size']:,} for the test"] if splits.test is None else []
        else:
            parts = ["the test set" if source is splits.test else "for search"]
        checked = "" if look["decoded"] == len(source.labels) else f"; {look['decoded']:,} of them decoded"
        facts.append((source.where, f"{len(source.labels):,} images ({', '.join(parts)}{checked})"))
    counts = np.bincount(splits.train.labels, minlength=len(splits.train.classes))
    low, high = int(counts.argmin()), int(counts.argmax())
    classes = splits.train.classes
    balance = f"{counts[low]:,} images each"
    if counts[low] != counts[high]:
        balance = f"from {counts[low]:,} images ({classes[low]}) to {counts[high]:,} ({classes[high]})"
    facts.append(("classes", f"{len(classes)}, {balance}: {listed(classes)}"))
    pixels: Counter[tuple[int, int]] = Counter()
    for look in looks:
        for width, height, count in look["sizes"]:
            pixels[width, height] += count
    (common, count), kinds = pixels.most_common(1)[0], len(pixels)
    text = f"{common[0]} × {common[1]} pixels"
    if kinds > 1:
        widths, heights = ([size[axis] for size in pixels] for axis in (0, 1))
        text = (
            f"{min(widths)} to {max(widths)} × {min(heights)} to {max(heights)} pixels, most often {text} ({count:,})"
        )
    facts.append(("image sizes", text))
    return facts
