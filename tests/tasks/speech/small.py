"""Small recordings for the tests: the same ones as a LibriSpeech tree, as manifests and as parquet files of the hub."""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import soundfile

from novobench import places
from novobench.config import CellConfig
from novobench.config_loading import load_tree, override
from novobench.tasks.catalog import resolve
from novobench.tasks.speech.listings import Headers, Listing
from novobench.tasks.speech.utterances import Utterances

RATE = 16000
SIZES = {"train-a": 7, "train-b": 6, "dev-clean": 5, "test-clean": 4}
HUB_NAMES = {"train-a": "train.a", "train-b": "train.b", "dev-clean": "validation.clean", "test-clean": "test.clean"}
WORDS = ("ONE", "TWO", "IT'S", "SEE", "NO", "BOOK", "A")

BLOCKS = [{"channels": 8, "kernel": 3, "stride": 2, "dropout": 0.0}, {"channels": 8, "kernel": 1, "dropout": 0.0}]
SMALL = {
    "task": "speech",
    "seed": 0,
    "scale": "gpu",
    "budget": "4steps",
    "batch": {"size": 8, "micro": 4},
    "model.blocks": BLOCKS,
    "model.features": 16,
    "data.source": "librispeech",
    "data.name": "tiny",
    "data.path": "tree",
    "data.train_splits": ["train-a", "train-b"],
    "data.dev_sets": [],
    "data.test_sets": ["test-clean"],
    "data.train_size": 13,
    "data.set_sizes": {"dev-clean": 5, "test-clean": 4},
    "data.speeds": [0.9, 1.0, 1.1],
    "data.frequency_masks": 0,
    "data.time_masks": 0,
    "data.bucket_window": 0,
    "data.keep_features": False,
    "data.evaluation_batch": 3,
    "optimizer.name": "novograd",
    "optimizer.lr": 0.01,
    "optimizer.weight_decay": 0.001,
    "runtime.accelerator": "cpu",
    "runtime.precision": "32-true",
    "runtime.workers": 0,
    "runtime.curve_points": 1,
    "runtime.checkpoint_every": 100,
}


def small(**changes: object) -> CellConfig:
    """A cell of four updates; `changes` are dotted keys with `__` for the dot."""
    tree = load_tree(places.workspace().task_config("speech", "gpu"))
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve(override(tree, {**SMALL, **dotted}, "test"), "test")


SOURCES = {
    "librispeech": {},
    "manifest": {"data__source": "manifest", "data__path": "manifests"},
    "hub": {
        "data__source": "hub",
        "data__path": "hub",
        "data__train_splits": ["train.a", "train.b"],
        "data__split_names": {"dev-clean": "validation.clean", "test-clean": "test.clean"},
    },
}
"""What turns `small()` into a cell on the same recordings from each source of files."""


def make_tree(root: Path) -> None:
    """`tree/<split>/<speaker>/1/`: noise of 0.4 to 1.2 s with words that have nothing to do with it; two speakers a
    split, and no two recordings equally long."""
    rng = np.random.default_rng(0)
    for place, (split, count) in enumerate(SIZES.items()):
        for number in range(count):
            speaker = 10 * (place + 1) + number % 2
            folder = root / "tree" / split / str(speaker) / "1"
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{speaker}-1-{number:04}"
            samples = rng.integers(-3000, 3000, rng.integers(6400, 19200), dtype=np.int16)
            soundfile.write(folder / f"{name}.flac", samples, RATE)
            text = " ".join(rng.choice(WORDS, rng.integers(1, 4)))
            with (folder / f"{speaker}-1.trans.txt").open("a") as file:
                file.write(f"{name} {text}\n")


def transcripts(split: Path) -> list[tuple[Path, str]]:
    """Recording and text of each utterance of a split of the tree, in the order of their ids."""
    lines = [(path.parent, line) for path in sorted(split.glob("*/*/*.txt")) for line in path.read_text().splitlines()]
    return [(folder / f"{line.split()[0]}.flac", line.partition(" ")[2]) for folder, line in lines]


def make_manifests(root: Path) -> None:
    """`manifests/<split>.json` over the tree's recordings."""
    (root / "manifests").mkdir()
    for split in SIZES:
        lines = [
            json.dumps({"audio_filepath": f"../{path.relative_to(root)}", "duration": 1.0, "text": text})
            for path, text in transcripts(root / "tree" / split)
        ]
        (root / "manifests" / f"{split}.json").write_text("\n".join(lines) + "\n")


def make_parquet(root: Path, rows: dict[str, list[tuple[str, str, bytes | None]]] | None = None) -> None:
    """`hub/data/<split>-00000-of-00001.parquet` with the columns of openslr/librispeech_asr, recordings inside; of the
    tree, or of `rows` (id, text, bytes)."""
    if rows is None:
        rows = {
            split: [(path.stem, text, path.read_bytes()) for path, text in transcripts(root / "tree" / split)]
            for split in SIZES
        }
    kinds = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "text": datasets.Value("string"),
            "id": datasets.Value("string"),
        }
    )
    datasets.disable_progress_bars()
    (root / "hub" / "data").mkdir(parents=True, exist_ok=True)
    for split, found in rows.items():
        columns = {
            "audio": [
                None if content is None else {"bytes": content, "path": f"{name}.flac"} for name, _, content in found
            ],
            "text": [text for _, text, _ in found],
            "id": [name for name, _, _ in found],
        }
        table = datasets.Dataset.from_dict(columns, features=kinds)
        table.to_parquet(str(root / "hub" / "data" / f"{HUB_NAMES[split]}-00000-of-00001.parquet"))


class Imagined:
    """A source of utterances of given lengths; recordings are noise, made when asked for."""

    def __init__(self, lengths: Sequence[int], texts: Sequence[str] | None = None) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)
        texts = texts or ["a"] * len(lengths)
        self.listings = [Listing(f"u{i}", text, f"imagined {i}") for i, text in enumerate(texts)]
        self.fingerprint = self.cache_key = "imagined"

    def headers(self) -> Headers:
        rates, ones = np.full(len(self.lengths), RATE), np.ones_like(self.lengths)
        return Headers(np.stack([self.lengths, rates, ones], axis=1), {})

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng(index)
        return rng.uniform(-0.1, 0.1, self.lengths[index]).astype(np.float32), RATE


def imagined(config: CellConfig, lengths: Sequence[int], texts: Sequence[str] | None = None) -> Utterances:
    return Utterances([Imagined(lengths, texts)], config.data, "train")
