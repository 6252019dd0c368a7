"""Small cells and recordings for the tests: the same recordings as a LibriSpeech tree, manifests and parquet files."""

import io
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
from novobench.tasks.sampling import SampleKey
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.data import open_utterances
from novobench.tasks.speech.listings import Headers, Listing
from novobench.tasks.speech.sources import open_source
from novobench.tasks.speech.utterances import Utterances

RATE = 16000
SIZES = {"train-a": 7, "train-b": 6, "dev-clean": 5, "test-clean": 4}
HUB_NAMES = {"train-a": "train.a", "train-b": "train.b", "dev-clean": "validation.clean", "test-clean": "test.clean"}
WORDS = ("ONE", "TWO", "IT'S", "SEE", "NO", "BOOK", "A")
SAMPLES = np.random.default_rng(5).integers(-3000, 3000, 8000, dtype=np.int16)
BAD_ID = "10-1-0002"
"""The second utterance of the first training speaker, which tests damage."""
NOT_AUDIO = "it is not an audio file that libsndfile can decode ("

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
"""Changes that make `small()` read the same recordings from each source of files."""
MANIFEST = SOURCES["manifest"]


# ------------------------------------------------------------------------------------ the same recordings, three times


def make_tree(root: Path) -> None:
    """`tree/<split>/<speaker>/1/`: noise of 0.4 to 1.2 s with unrelated words; two speakers per split, and every
    recording has another length."""
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
    """`hub/data/<split>-00000-of-00001.parquet` with the columns of openslr/librispeech_asr and the recordings' bytes;
    of the tree, or of `rows` (id, text, bytes)."""
    if rows is None:
        rows = {
            split: [(path.stem, text, path.read_bytes()) for path, text in transcripts(root / "tree" / split)]
            for split in SIZES
        }
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "text": datasets.Value("string"),
            "id": datasets.Value("string"),
        }
    )
    datasets.disable_progress_bars()
    (root / "hub" / "data").mkdir(parents=True, exist_ok=True)
    for split, utterances in rows.items():
        columns = {
            "audio": [
                None if content is None else {"bytes": content, "path": f"{name}.flac"}
                for name, _, content in utterances
            ],
            "text": [text for _, text, _ in utterances],
            "id": [name for name, _, _ in utterances],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(root / "hub" / "data" / f"{HUB_NAMES[split]}-00000-of-00001.parquet"))


# ------------------------------------------------------------------------------------ reading and damaging them


def everything(config: CellConfig, root: Path) -> list[tuple]:
    """Id, text and samples of every utterance, and the features of the training batches."""
    splits = open_utterances(config, root)
    contents = []
    for split in (splits.train, *splits.sets.values()):
        utterances = split.utterances
        for index in range(len(utterances)):
            samples = utterances.read(index)
            assert len(samples) == utterances.lengths[index]
            contents.append((utterances.listing(index).id, utterances.texts[index], samples.numpy().tobytes()))
    batches = [splits.train[SampleKey(1, i)] for i in range(len(splits.train))]
    return [*contents, *(batch.features.numpy().tobytes() for batch in batches)]


def samples_by_id(root: Path, **changes: object) -> dict[str, np.ndarray]:
    """Id -> samples of all utterances of `small(**changes)`."""
    splits = open_utterances(small(**changes), root)
    samples = {}
    for utterances in (splits.train.utterances, *(each.utterances for each in splits.sets.values())):
        samples |= {utterances.listing(index).id: utterances.read(index).numpy() for index in range(len(utterances))}
    return samples


def change_transcript(root: Path, old: str, new: str, name: str = "10-1.trans.txt") -> None:
    path = next((root / "tree").glob(f"**/{name}"))
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def transcript_line(root: Path) -> str:
    path = next((root / "tree").glob("**/10-1.trans.txt"))
    return next(line for line in path.read_text().splitlines() if line.startswith(BAD_ID))


def recording(root: Path, name: str = BAD_ID) -> Path:
    return next((root / "tree").glob(f"**/{name}.flac"))


def rewrite_recording(root: Path, rate: int = RATE, channels: int = 1, samples: int | None = None) -> None:
    sound, _ = soundfile.read(recording(root), dtype="int16")
    soundfile.write(recording(root), np.stack([sound[:samples]] * channels, axis=1), rate)


def cut_short(path: Path) -> None:
    """Keep the header and half of the rest."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_manifest(root: Path, *entries: dict, split: str = "train-b") -> None:
    """Change values in the first lines of a manifest."""
    path = root / "manifests" / f"{split}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, entry in zip(lines, entries, strict=False):
        line |= entry
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# ------------------------------------------------------------------------------------ one split of a few recordings


def open_split(root: Path, source: str = "manifest", skip: bool = False) -> Utterances:
    """The training split `train` in the folder `tiny`, or `train.a` of the hub's `hub`."""
    folder, split = {"hub": ("hub", "train.a")}.get(source, ("tiny", "train"))
    config = SpeechDataConfig(
        source=source,
        name="tiny",
        path=folder,
        train_splits=[split],
        features=FeatureConfig(sample_rate=RATE),
        on_bad_utterance="skip" if skip else "error",
    )
    return Utterances([open_source(config, root, split)], config, "train")


def write_manifest(root: Path, *names: str) -> Path:
    """A manifest of one good recording, which is written, and of recordings of these names."""
    folder = root / "tiny"
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "good.wav", SAMPLES, RATE)
    lines = [f'{{"audio_filepath": "{name}", "text": "one"}}' for name in ("good.wav", *names)]
    (folder / "train.json").write_text("\n".join(lines) + "\n")
    return folder


def wav() -> bytes:
    """`SAMPLES` as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, RATE, format="WAV")
    return file.getvalue()


class FakeSource:
    """A source of utterances with the given lengths in samples. Recordings are noise, made when they are read."""

    def __init__(self, lengths: Sequence[int], texts: Sequence[str] | None = None) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)
        texts = texts or ["a"] * len(lengths)
        self.listings = [Listing(f"u{i}", text, f"fake {i}") for i, text in enumerate(texts)]
        self.fingerprint = self.cache_key = "fake"

    def headers(self) -> Headers:
        rates, ones = np.full(len(self.lengths), RATE), np.ones_like(self.lengths)
        return Headers(np.stack([self.lengths, rates, ones], axis=1), {})

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng(index)
        return rng.uniform(-0.1, 0.1, self.lengths[index]).astype(np.float32), RATE


def fake_utterances(config: CellConfig, lengths: Sequence[int], texts: Sequence[str] | None = None) -> Utterances:
    return Utterances([FakeSource(lengths, texts)], config.data, "train")


def count_in_flac(content: bytes, samples: int) -> bytes:
    """A FLAC file that states this number of samples in the 36 bits of STREAMINFO; 0 means unknown."""
    changed = bytearray(content)
    changed[21] = changed[21] & 0xF0 | samples >> 32
    changed[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)
