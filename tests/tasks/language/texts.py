"""A small text as files, and the config that reads it."""

import dataclasses

from novobench.tasks.language.config import LanguageDataConfig

TEXT = {
    "train": " \n = The <unk> Title = \n \n the cat sat on the mat , The end\n b b c c\u2028d \n the cat ate 1 fish\n",
    "valid": " \n the mat sat on the <unk>\n",
    "test": " the cat\n c d",  # no line end
}
TINY = LanguageDataConfig(source="files", name="wiki")


def write(folder, **changes):
    """The text as WikiText's files in `folder`; `changes` replace the text of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in {**TEXT, **changes}.items():
        (folder / f"wiki.{split}.tokens").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def tiny(**changes):
    return dataclasses.replace(TINY, **changes)
