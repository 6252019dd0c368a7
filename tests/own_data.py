"""Small data sets in the layouts that people have, as real files."""

import random
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from novobench import places
from novobench.config import CellConfig
from novobench.config_loading import override
from novobench.suite.own_data import Measured, measure
from novobench.tasks.base import TaskData, build
from novobench.tasks.catalog import default_list, load_task, resolve

RATE = 8000
NOUNS = {"dog": "hund", "cat": "katze", "house": "haus", "tree": "baum", "bird": "vogel", "fish": "fisch"}
VERBS = {"sees": "sieht", "finds": "findet", "likes": "mag", "draws": "malt"}


def write_images(folder: Path, counts: dict[str, int], *size: int, suffix: str = "png") -> None:
    """`<folder>/<class>/<number>.<suffix>`: noise around one color per class, of sides from 20 to 44, or of one `size`
    (width, height)."""
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = size or rng.integers(20, 45, 2).tolist()
            pixels = rng.integers(0, 80, (height, width, 3))
            pixels[..., label % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.{suffix}")


def recording(number: int, rate: int = RATE, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    """A tone, float32 [S] or [S, channels]."""
    tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(int(rate * seconds)) / rate)
    return (tone if channels == 1 else np.stack([tone] * channels, axis=1)).astype(np.float32)


def write_recordings(folder: Path, count: int, suffix: str = "wav", transcripts: str = "txt", **options: int) -> None:
    """`<folder>/<number>.<suffix>` with a transcript of two English words next to each."""
    folder.mkdir(parents=True, exist_ok=True)
    words = random.Random(0)
    for number in range(count):
        rate = options.get("rate", RATE)
        samples = recording(number, rate, channels=options.get("channels", 1))
        soundfile.write(folder / f"{number}.{suffix}", samples, rate, format=suffix.upper())
        text = f"{words.choice(list(NOUNS))} {words.choice(list(VERBS))}"
        (folder / f"{number}.{transcripts}").write_text(f"{text}\n", encoding="utf-8")


def sentence_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """English sentences of three to six words and a German word for each of them."""
    draw, words = random.Random(seed), NOUNS | VERBS
    pairs = []
    for _ in range(count):
        english = [draw.choice(list(words)) for _ in range(draw.randint(3, 6))]
        pairs.append((" ".join(english), " ".join(words[word] for word in english)))
    return pairs


def write_pairs(folder: Path, name: str, pairs: list[tuple[str, str]], *languages: str) -> None:
    """`<folder>/<name>.<language>` for both languages; en and de by default."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(languages or ("en", "de")):
        text = "".join(f"{pair[side]}\n" for pair in pairs)
        (folder / f"{name}.{language}").write_text(text, encoding="utf-8")


def write_texts(folder: Path, **lines: int) -> None:
    """`<folder>/<name>` with so many lines; underscores of the keyword become dots: `train_txt=100`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, count) in enumerate(lines.items()):
        sentences = (english for english, _ in sentence_pairs(count, seed=number))
        (folder / name.replace("_", ".")).write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")


def open_measured(task: str, **given: object) -> tuple[Measured, CellConfig, TaskData]:
    """Measure the data that `--data` would name, resolve the config and open the data as a training does."""
    measured = measure(task, "laptop", given)
    tree = load_task(task, places.workspace().task_config(task, "laptop"))
    fixed = {"task": task, "seed": 0, "optimizer.name": "sgd", "optimizer.lr": 0.1}
    config = resolve(override(tree, {**fixed, **measured.overrides}, "test", default_list), "test")
    _, data = build(config)
    data.setup("fit")
    return measured, config, data
