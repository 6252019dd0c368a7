"""Speech recognition: Jasper's training step with CTC, greedy decoding, word and character error rates.

B utterances, F Mel bands, T frames, T' outputs, L letters, V letters and the blank, which comes last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from novobench.config import CellConfig, data_root
from novobench.errors import DataError
from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.metric import Metric
from novobench.tasks.speech import scoring
from novobench.tasks.speech.data import collate, identify, open_utterances, padded
from novobench.tasks.speech.features import LogMel
from novobench.tasks.speech.model import build as build_model

_TIMED_SECONDS = 12.3
"""Length of an utterance in `random_batch`: the mean of LibriSpeech's training set."""
_COLLAPSED_BLANKS, _COLLAPSED_WER = 60.0, 90.0
"""A network that says almost nothing: this share of blanks with this error rate, both in percent."""


class SpeechTask(TaskModule):
    """CTC summed over each utterance, averaged over the micro-batch (not divided by the transcript's length), in
    float32 at least; an utterance that cannot be aligned counts as 0 (OpenSeq2Seq ctc_loss.py)."""

    determinism_on_cuda = "to rounding"  # torch's CTC adds up its gradient atomically

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        self.log_mel = LogMel(config.data.features, config.model.features)
        self.blank = config.model.outputs - 1
        self.scoring = scoring.described()
        self.evaluation_start()

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, T', V] of features [B, F, T], and how many outputs each utterance has [B]."""
        logits, lengths = self.network(features, lengths)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2).log_softmax(-1), lengths

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.skipped_samples += batch["left_out"]
        losses, _, _ = self._losses(self._heard(batch))
        return losses.mean()

    def _heard(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with features, made here where the loader left samples."""
        if "heard" not in batch:
            return batch
        features = [self.log_mel(samples) for samples in batch["heard"]]
        return batch | padded(features, self.config.data, batch.get("draws"))

    def _losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each utterance [B], log-probabilities [B, T', V], and outputs of each utterance [B]."""
        found, lengths = self(batch["features"], batch["lengths"])
        losses = F.ctc_loss(
            found.transpose(0, 1),
            batch["letters"],
            lengths,
            batch["letter_counts"],
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        return losses, found, lengths

    def random_batch(self, size: int) -> dict[str, Any]:
        data = self.config.data
        frames = round(_TIMED_SECONDS * data.features.sample_rate / data.features.hop_samples)
        frames += -frames % data.pad_frames
        letters = 15 * round(_TIMED_SECONDS)  # LibriSpeech has about 15 letters a second
        return {
            "features": torch.randn(size, self.config.model.features, frames),
            "lengths": torch.full((size,), frames),
            "letters": torch.randint(self.blank, (size, letters)),
            "letter_counts": torch.full((size,), letters),
            "left_out": 0,
        }

    def counted(self, batch: dict[str, Any]) -> tuple[int, str]:
        return len(batch["letters"]), "utterances"

    # ------------------------------------------------------------------------------------ evaluation

    def evaluation_start(self) -> None:
        self._loss = 0.0
        self._outputs = self._blanks = self._left_out = 0
        self._references: list[str] = []
        self._hypotheses: list[str] = []

    def evaluation_step(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        self._left_out += batch["left_out"]
        if "letters" not in batch:
            return []
        batch = self._heard(batch)
        losses, found, lengths = self._losses(batch)
        self._loss += float(losses.double().sum())
        best = found.argmax(-1)
        hypotheses = []
        for row, length in zip(best.tolist(), lengths.tolist(), strict=True):
            self._outputs += length
            self._blanks += row[:length].count(self.blank)
            hypotheses.append(scoring.greedy(row[:length], self.config.data.alphabet))
        self._references += batch["reference"]
        self._hypotheses += hypotheses
        columns = {key: batch[key] for key in ("index", "input", "reference")} | {"output": hypotheses}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def evaluation_end(self) -> dict[str, Metric]:
        mine = [*scoring.errors(self._references, self._hypotheses), self._loss, self._outputs, self._blanks]
        mine += [len(self._references), self._left_out]
        summed = self.sum_over_processes(torch.tensor(mine, dtype=torch.float64)).tolist()
        errors = scoring.Errors(*summed[: len(scoring.Errors._fields)])
        loss, outputs, blanks, utterances, left_out = summed[len(scoring.Errors._fields) :]
        if not utterances:
            raise DataError(f"No recording of an evaluation set of '{self.config.data.name}' can be read.")
        metrics = errors.metrics()
        blank_share = 100 * blanks / max(outputs, 1)
        collapsed = blank_share > _COLLAPSED_BLANKS and metrics["wer"].value > _COLLAPSED_WER
        n = round(utterances)
        metrics |= {
            "loss": Metric(loss / max(n, 1), n, "nats"),
            "blanks": Metric(blank_share, round(outputs), "%"),
            "collapsed": Metric(float(collapsed), n, "yes or no"),
        }
        return metrics | ({"skipped": Metric(left_out, n, "utterances")} if left_out else {})


class SpeechData(TaskData):
    """The four sources behind one door; see `data.open_utterances`."""

    packed = True

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.collate = partial(collate, data=config.data)

    def identify(self) -> str:
        """The fingerprint, without what makes `setup` expensive."""
        return identify(self.config, data_root(self.config))

    def setup(self, stage: str) -> None:
        splits = open_utterances(self.config, data_root(self.config))
        data = self.config.data
        roles = {
            data.search_set: "search",
            **dict.fromkeys(data.dev_sets, "dev"),
            **dict.fromkeys(data.test_sets, "test"),
        }
        self.train = splits.train
        self.evaluation_sets = [
            EvaluationSet(name, roles[name], utterances)  # type: ignore[arg-type]
            for name, utterances in splits.sets.items()
        ]
        self.fingerprint, self.counts = splits.fingerprint, splits.counts


def build(config: CellConfig) -> tuple[SpeechTask, SpeechData]:
    return SpeechTask(config), SpeechData(config)
