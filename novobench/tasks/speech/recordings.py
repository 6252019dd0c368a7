"""Recordings decoded by soundfile, and the parts of them that manifests name.

A recording is a file, or bytes. Whatever goes wrong while it is open makes it a bad one: soundfile, libsndfile and the
decoders below it raise errors of many types, and all say the same, that this recording cannot be read.
"""

from __future__ import annotations

import io
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from novobench.errors import DataError, kind_and_message, one_line
from novobench.tasks.sources import UnreadableFile, open_file

Recording = Path | bytes | None
"""A file, what one holds, or nothing."""

_ROUNDED_SECONDS = 0.01
"""How far a segment may reach over its recording's end: manifests round seconds."""
_MOST_SECONDS = 1e12
_LIKELY_SAMPLES_PER_BYTE = 100
"""Speech has 0.5 to 10 samples a byte; a header that promises more is not believed, the recording is decoded."""
_BLOCK = 1 << 20
_MOST_SAMPLES = 1 << 28
"""More are never held at once (1 GiB; 4.6 hours at 16 kHz): a file of a megabyte can hold days of silence."""


class BadRecording(ValueError):
    """A recording that cannot be used; the message says why."""


class Segment(NamedTuple):
    """A part of a recording, in seconds, as a manifest has them."""

    offset: Any
    duration: Any = None
    """None: to the recording's end."""

    def within(self, samples: int, rate: int) -> tuple[int, int]:
        """First sample and number of samples, cut to integers as NeMo's AudioSegment does. Raises BadRecording if it is
        no part of a recording of so many samples."""
        for key, value in self._asdict().items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if (value is not None or key == "offset") and not (number and 0 <= value < _MOST_SECONDS):
                raise BadRecording(f"its {key} is {reprlib.repr(value)} and must be 0 seconds or more, and finite")
        seconds = samples / rate
        if self.offset >= seconds:
            raise BadRecording(f"its offset {self.offset:g} s is behind the end of the recording, at {seconds:g} s")
        start = int(self.offset * rate)
        if self.duration is None:
            return start, samples - start
        if self.offset + self.duration > seconds + _ROUNDED_SECONDS:
            raise BadRecording(
                f"its offset {self.offset:g} s and duration {self.duration:g} s reach over the end of the recording, "
                f"at {seconds:g} s"
            )
        return start, min(int(self.duration * rate), samples - start)


def header(recording: Recording) -> tuple[int, int, int]:
    """Samples, sample rate and channels. A recording whose header does not know its length, as one written to a pipe,
    or promises more than the file can hold, is decoded. Raises BadRecording."""
    with _opened(recording) as sound:
        samples, rate, channels = sound.frames, sound.samplerate, sound.channels
    size = len(recording) if isinstance(recording, bytes) else os.path.getsize(recording)  # type: ignore[arg-type]
    if not 0 < samples <= size * _LIKELY_SAMPLES_PER_BYTE:
        samples = sum(len(block) for block in _blocks(recording))
    return samples, rate, channels


def read(recording: Recording, length: int, segment: Segment | None) -> tuple[np.ndarray, int]:
    """float32 [S] or [S, channels] of a recording, or of its segment, and the sample rate. `length` is what `header`
    found. Raises BadRecording."""
    with _opened(recording) as sound:
        rate, frames = sound.samplerate, sound.frames
        start, count = segment.within(length, rate) if segment else (0, length)
        if count > _MOST_SAMPLES:
            raise BadRecording(f"it has {count} samples, and {_MOST_SAMPLES} are the most that are read at once")
        if frames == length:
            sound.seek(start)
            return sound.read(count, dtype="float32"), rate
    # The header does not know, or the file has changed, which another number of samples than `count` will show.
    parts, position, stop = [], 0, start + count + (segment is None)
    for block in _blocks(recording):
        parts.append(block[max(0, start - position) : max(0, stop - position)])
        position += len(block)
        if position >= stop:
            break
    return np.concatenate(parts), rate


class _Stream(soundfile.SoundFile):
    """Reads on without seeking, which fails behind the end of a file of unknown length."""

    def seekable(self) -> bool:
        return False


def _blocks(recording: Recording) -> Iterator[np.ndarray]:
    """All samples, however many the header says that there are."""
    with _opened(recording, _Stream) as sound:
        block = sound.read(_BLOCK, dtype="float32")
        yield block
        while len(block) == _BLOCK:
            block = sound.read(_BLOCK, dtype="float32")
            yield block


class _Bytes(io.BytesIO):
    """libsndfile seeks where damaged files tell it to; Python would print an exception of such a call and go on."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1


@contextmanager
def _opened(recording: Recording, kind: type[soundfile.SoundFile] = soundfile.SoundFile) -> Iterator[Any]:
    """The recording, open. Whatever is raised here and in the block is BadRecording, but for DataError: what may pass,
    as a disk's failure or too many open files, must not decide what is left out.

    soundfile gets no names: it would go by their endings, and cannot take those that are not UTF-8.
    """
    failed = "it is no audio file that libsndfile knows"
    try:
        if not recording:
            raise BadRecording("it is missing")
        with _Bytes(recording) if isinstance(recording, bytes) else open_file(recording) as file:
            if isinstance(recording, Path) and not os.fstat(file.fileno()).st_size:
                raise BadRecording("it is empty")
            with kind(file if isinstance(recording, bytes) else file.fileno(), closefd=False) as sound:
                failed = "it is damaged or cut short"
                yield sound
    except (BadRecording, DataError):
        raise
    except UnreadableFile as error:
        raise BadRecording(str(error)) from None
    except Exception as error:
        told = error.error_string if isinstance(error, soundfile.LibsndfileError) else kind_and_message(error)
        raise BadRecording(f"{failed} ({one_line(told).rstrip('.')})") from error
