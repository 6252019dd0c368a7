"""Recordings decoded by soundfile, and the segments of them that manifests name.

A recording is a file, or its bytes. Whatever goes wrong while it is open makes it a bad recording: soundfile,
libsndfile and the decoders below it raise errors of many types, and all of them mean that it cannot be read.
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
"""A file, the content of one, or None for a missing recording."""

_ROUNDING_S = 0.01
"""How far a segment may extend past the end of its recording: manifests round seconds."""
_MAX_SECONDS = 1e12
_PLAUSIBLE_SAMPLES_PER_BYTE = 100
"""Speech has 0.5 to 10 samples per byte. A header that promises more is not trusted, and the recording is decoded."""
_BLOCK = 1 << 20
_MAX_SAMPLES = 1 << 28
"""Samples held at once (1 GiB; 4.6 hours at 16 kHz): a file of one megabyte can hold days of silence."""


class BadRecording(ValueError):
    """A recording that cannot be used; the message says why."""


class Segment(NamedTuple):
    """A part of a recording, in seconds, as a manifest has it. The values are not checked yet."""

    offset: Any
    duration: Any = None
    """None: to the end of the recording."""

    def within(self, samples: int, rate: int) -> tuple[int, int]:
        """First sample and number of samples, truncated to integers as in NeMo's AudioSegment.

        Raises BadRecording if the segment does not lie within a recording of `samples` samples.
        """
        for key, value in self._asdict().items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if (value is not None or key == "offset") and not (number and 0 <= value < _MAX_SECONDS):
                raise BadRecording(f"its {key} is {reprlib.repr(value)} and must be 0 seconds or more, and finite")
        seconds = samples / rate
        if self.offset >= seconds:
            raise BadRecording(f"its offset {self.offset:g} s is past the end of the recording, at {seconds:g} s")
        start = int(self.offset * rate)
        if self.duration is None:
            return start, samples - start
        if self.offset + self.duration > seconds + _ROUNDING_S:
            raise BadRecording(
                f"its offset {self.offset:g} s and duration {self.duration:g} s extend past the end of the recording, "
                f"at {seconds:g} s"
            )
        return start, min(int(self.duration * rate), samples - start)


def header(recording: Recording) -> tuple[int, int, int]:
    """Samples, sample rate in Hz, and channels. Raises BadRecording.

    The recording is decoded if its header has no length, as after writing to a pipe, or an implausible one.
    """
    with _opened(recording) as sound:
        samples, rate, channels = sound.frames, sound.samplerate, sound.channels
    size = len(recording) if isinstance(recording, bytes) else os.path.getsize(recording)  # type: ignore[arg-type]
    if not 0 < samples <= size * _PLAUSIBLE_SAMPLES_PER_BYTE:
        samples = sum(len(block) for block in _blocks(recording))
    return samples, rate, channels


def read(recording: Recording, length: int, segment: Segment | None) -> tuple[np.ndarray, int]:
    """Samples of a recording or of its segment, float32 [S] or [S, channels], and the sample rate in Hz.

    `length` is the number of samples that `header` returned. Raises BadRecording.
    """
    with _opened(recording) as sound:
        rate, frames = sound.samplerate, sound.frames
        start, count = segment.within(length, rate) if segment else (0, length)
        if count > _MAX_SAMPLES:
            raise BadRecording(f"it has {count} samples, and at most {_MAX_SAMPLES} can be read at once")
        if frames == length:
            sound.seek(start)
            return sound.read(count, dtype="float32"), rate
    # The header has no usable length, or the file has changed: then the caller sees another number of samples.
    parts, position, stop = [], 0, start + count + (segment is None)
    for block in _blocks(recording):
        parts.append(block[max(0, start - position) : max(0, stop - position)])
        position += len(block)
        if position >= stop:
            break
    return np.concatenate(parts), rate


class _Stream(soundfile.SoundFile):
    """Reads without seeking, which fails past the end of a file of unknown length."""

    def seekable(self) -> bool:
        return False


def _blocks(recording: Recording) -> Iterator[np.ndarray]:
    """All samples, whatever length the header states."""
    with _opened(recording, _Stream) as sound:
        block = sound.read(_BLOCK, dtype="float32")
        yield block
        while len(block) == _BLOCK:
            block = sound.read(_BLOCK, dtype="float32")
            yield block


class _Bytes(io.BytesIO):
    """libsndfile seeks where damaged files tell it to; Python would print the exception of such a call and continue."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1


@contextmanager
def _opened(recording: Recording, kind: type[soundfile.SoundFile] = soundfile.SoundFile) -> Iterator[Any]:
    """The recording, open. Every error raised here or in the block becomes BadRecording, except DataError: temporary
    failures, as of a disk or of too many open files, must not decide which utterances are skipped.

    soundfile gets no file names: it would trust their suffixes, and it cannot open names that are not UTF-8.
    """
    problem = "it is not an audio file that libsndfile can decode"
    try:
        if not recording:
            raise BadRecording("it is missing")
        with _Bytes(recording) if isinstance(recording, bytes) else open_file(recording) as file:
            if isinstance(recording, Path) and not os.fstat(file.fileno()).st_size:
                raise BadRecording("it is empty")
            with kind(file if isinstance(recording, bytes) else file.fileno(), closefd=False) as sound:
                problem = "it is damaged or cut short"
                yield sound
    except (BadRecording, DataError):
        raise
    except UnreadableFile as error:
        raise BadRecording(str(error)) from None
    except Exception as error:
        cause = error.error_string if isinstance(error, soundfile.LibsndfileError) else kind_and_message(error)
        raise BadRecording(f"{problem} ({one_line(cause).rstrip('.')})") from error
