"""CSV and TSV manifests of recordings and transcripts, Common Voice's among them."""

from __future__ import annotations

from pathlib import Path

from novobench.tasks.sources import data_folder, missing_split
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.listings import FileSource, Listing, split_remedy, storable
from novobench.tasks.tables import Table, item_folder, table_file, table_splits

FILE_COLUMNS = ("path", "file", "audio", "audio_filepath", "audio_path", "filename", "file_name", "wav", "wav_filename")
TEXT_COLUMNS = ("text", "transcript", "sentence", "transcription", "normalized_text", "label")
_FOLDERS = ("clips", "wavs", "wav", "audio", "recordings")


class TableSource(FileSource):
    """`<split>.csv` or `<split>.tsv` with a header; a row has the file of a recording and its transcript.

    Files are relative to the table's folder, or to a folder `clips` (Common Voice), `wavs`, `audio` or `<split>` in it.
    A row without a file or without a transcript is a bad utterance.
    """

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        root = data_folder(data_root, config.path, config.name, "manifests (<split>.csv, .tsv or .json)")
        file = table_file(root, split)
        if file is None:
            splits = table_splits(root)
            raise missing_split(f"{root} (tables)", split, splits, split_remedy(split, splits, config))
        table = Table(file)
        files = list(table.values(FILE_COLUMNS, "recordings"))
        folder = item_folder(root, split, [name for _, name in files], _FOLDERS)
        self.listings, self.paths = [], []
        for (line, name), (_, text) in zip(files, table.values(TEXT_COLUMNS, "transcripts"), strict=True):
            path = folder / (name or "(no file name)")
            fault = "" if name else f"{file} line {line} names no recording"
            self.paths.append(path)
            self.listings.append(Listing(storable(path.stem), text, str(path), fault=fault))
