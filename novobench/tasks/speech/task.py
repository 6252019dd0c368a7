"""Speech recognition: Jasper's training step with CTC, greedy decoding, word and character error rates.

B utterances, F Mel bands, T frames, T' outputs, L tokens (letters), V letters and the blank, which comes last.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from novobench.config import CellConfig
from novobench.errors import DataError
from novobench.optim.entry import Role
from novobench.tasks.base import TaskModule
from novobench.tasks.metric import Metric
from novobench.tasks.speech import scoring
from novobench.tasks.speech.data import AudioBatch, SpeechBatch, SpeechData, padded
from novobench.tasks.speech.features import LogMel
from novobench.tasks.speech.model import build as build_model

_RANDOM_SECONDS = 12.3
"""Length of an utterance of `random_batch`: the mean of LibriSpeech's training set."""
_LETTERS_PER_SECOND = 15
"""Of an utterance of `random_batch`: about LibriSpeech's."""
_COLLAPSED_BLANKS, _COLLAPSED_WER = 60.0, 90.0
"""A network that outputs almost nothing: at least this share of blanks and this word error rate, both in percent."""


class SpeechTask(TaskModule):
    """CTC summed over each utterance, averaged over the micro-batch (not divided by the transcript's length), in
    float32 at least; an utterance that cannot be aligned counts as 0 (OpenSeq2Seq ctc_loss.py)."""

    role_patterns: ClassVar[dict[str, Role]] = {r"^network\.output\.weight$": "head"}
    determinism_on_cuda = "to rounding"  # torch's CTC accumulates its gradient atomically

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        self.log_mel = LogMel(config.data.features, config.model.features)
        self.blank = config.model.outputs - 1
        self.scoring = scoring.described()
        self.evaluation_start()

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, T', V] for features [B, F, T] of `lengths` frames [B], and output lengths [B]."""
        logits, lengths = self.network(features, lengths)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2).log_softmax(-1), lengths

    def training_step(self, batch: SpeechBatch | AudioBatch, batch_idx: int) -> Tensor:
        self.skipped_samples += batch.skipped
        losses, _, _ = self._losses(self._with_features(batch))
        return losses.mean()

    def _with_features(self, batch: SpeechBatch | AudioBatch) -> SpeechBatch:
        """The batch with features, computed here if the loader left samples."""
        if isinstance(batch, SpeechBatch):
            return batch
        _, mask_draws, tokens, token_lengths, indices, ids, references, skipped = batch
        features, lengths = padded([self.log_mel(each) for each in batch.samples], mask_draws, self.config.data)
        return SpeechBatch(features, lengths, tokens, token_lengths, indices, ids, references, skipped)

    def _losses(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each utterance [B], log-probabilities [B, T', V], and output lengths [B]."""
        log_probabilities, lengths = self(batch.features, batch.feature_lengths)
        losses = F.ctc_loss(
            log_probabilities.transpose(0, 1),
            batch.tokens,
            lengths,
            batch.token_lengths,
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        return losses, log_probabilities, lengths

    def random_batch(self, size: int) -> SpeechBatch:
        data = self.config.data
        frames = round(_RANDOM_SECONDS * data.features.sample_rate / data.features.hop_samples)
        frames += -frames % data.pad_frames
        letters = _LETTERS_PER_SECOND * round(_RANDOM_SECONDS)
        return SpeechBatch(
            features=torch.randn(size, self.config.model.features, frames),
            feature_lengths=torch.full((size,), frames),
            tokens=torch.randint(self.blank, (size, letters)),
            token_lengths=torch.full((size,), letters),
            indices=list(range(size)),
            ids=[],
            references=[],
            skipped=0,
        )

    def counted(self, batch: SpeechBatch) -> tuple[int, str]:
        return len(batch.tokens), "utterances"

    # ------------------------------------------------------------------------------------ evaluation

    def evaluation_start(self) -> None:
        self._loss = 0.0
        self._outputs = self._blanks = self._skipped = 0
        self._references: list[str] = []
        self._hypotheses: list[str] = []

    def evaluation_step(self, batch: SpeechBatch | AudioBatch) -> list[dict[str, Any]]:
        self._skipped += batch.skipped
        if not batch.indices:
            return []
        batch = self._with_features(batch)
        losses, log_probabilities, lengths = self._losses(batch)
        self._loss += float(losses.double().sum())
        hypotheses = []
        for row, length in zip(log_probabilities.argmax(-1).tolist(), lengths.tolist(), strict=True):
            self._outputs += length
            self._blanks += row[:length].count(self.blank)
            hypotheses.append(scoring.greedy(row[:length], self.config.data.alphabet))
        self._references += batch.references
        self._hypotheses += hypotheses
        columns = {"index": batch.indices, "input": batch.ids, "reference": batch.references, "output": hypotheses}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def evaluation_end(self) -> dict[str, Metric]:
        own = [*scoring.errors(self._references, self._hypotheses), self._loss, self._outputs, self._blanks]
        own += [len(self._references), self._skipped]
        summed = self.sum_over_processes(torch.tensor(own, dtype=torch.float64)).tolist()
        errors = scoring.Errors(*summed[: len(scoring.Errors._fields)])
        loss, outputs, blanks, utterances, skipped = summed[len(scoring.Errors._fields) :]
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
        return metrics | ({"skipped": Metric(skipped, n, "utterances")} if skipped else {})


def build(config: CellConfig) -> tuple[SpeechTask, SpeechData]:
    return SpeechTask(config), SpeechData(config)
