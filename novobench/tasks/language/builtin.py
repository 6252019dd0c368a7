"""The built-in corpus: WordNet's definitions of 21,844 synsets, part of the timm wheel, so nothing to download.

1.7 MB of natural English under the WordNet license (Princeton University). The file has not changed since it was added
to timm, and its bytes are checked. It is sorted by synset, so neighboring lines share a topic and memory is useful.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from novobench.errors import DataError
from novobench.requirements import SUITE, install_command

_SHA256 = "191e227d48fc8c7b7e2d2a3cac41fc8b2eb517d9d2819d0edbc91c5767250eed"
_FILE = Path("data", "_info", "imagenet_synset_to_definition.txt")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[^\w\s]")
_BLOCK = 50
"""Neighboring lines that go to the same split."""
_VALID, _TEST = 7, 17
"""The two of every 20 blocks that are held out."""

_SPACE = "_"
"""Stands for a space among characters; the text has no underscore."""


def glosses_as_characters() -> dict[str, list[str]]:
    """The same lines with a space between all characters: a vocabulary of 53 symbols instead of 4,806 words."""
    return {split: [" ".join(line.replace(" ", _SPACE)) for line in lines] for split, lines in glosses().items()}


def glosses() -> dict[str, list[str]]:
    """Lines of `train`, `valid` and `test`: lower-case words, numbers and punctuation marks with spaces between."""
    package = importlib.util.find_spec("timm")  # without importing it
    if package is None or package.origin is None:
        command = install_command(SUITE)
        raise DataError(f"The built-in text is part of the package timm, which is not installed. Run: {command}")
    path = Path(package.origin).parent / _FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the built-in text {path}: {error.strerror}. Install timm again.") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise DataError(f"{path} is not the expected text (sha256 {digest}). Install timm 1.0.31.")
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for number, line in enumerate(content.decode().removesuffix("\n").split("\n")):
        held_out = {_VALID: "valid", _TEST: "test"}.get(number // _BLOCK % 20, "train")
        lines[held_out].append(" ".join(_WORD.findall(line.partition("\t")[2].lower())))
    return lines
