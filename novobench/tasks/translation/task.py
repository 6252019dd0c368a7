"""Translation: the Transformer's training step, greedy and beam decoding, SacreBLEU and token BLEU.

B sentences, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LogitsProcessor, LogitsProcessorList

from novobench.config import CellConfig
from novobench.tasks.base import TaskModule
from novobench.tasks.metric import Metric
from novobench.tasks.translation import scoring
from novobench.tasks.translation.data import TranslationBatch, TranslationData
from novobench.tasks.translation.model import BEGIN, END, PAD
from novobench.tasks.translation.model import build as build_model

_ROUNDING = 1e-4
"""Rounding error of a difference of log-probabilities, in nats."""
_RANDOM_LENGTH = 32
"""Tokens of each sentence of `random_batch`: about the mean of WMT14 with a vocabulary of 8,192."""


class TranslationTask(TaskModule):
    """Label-smoothed cross-entropy, averaged over the target tokens of a micro-batch.

    The gradient of an update is the mean of its micro-batches' gradients, as in NeMo: a token counts a little more in a
    micro-batch that has fewer tokens.

    Test sets are translated greedily and by beam search, the search set only greedily. `sacrebleu`, `tokenbleu` and
    `exact` score the widest search, the metrics with `_greedy` greedy decoding. `beam_not_worse` is the share of
    sentences for which the beam's output is at least as likely as the greedy one: near 100 % if the search works.
    """

    def __init__(self, config: CellConfig, data: TranslationData) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        self.text_data = data  # its tokenizer turns outputs into text
        self.scoring = scoring.signatures(config.data.tokenize)
        self.evaluation_start()

    def forward(self, source: Tensor, target: Tensor, is_padded: bool = True) -> Tensor:
        """Logits [B, T, V] of the token after each token of `target` [B, T], given `source` [B, S].

        With `is_padded` False, `source` has no padding.
        """
        mask = source != PAD if is_padded else None
        return self.network(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False).logits

    def training_step(self, batch: TranslationBatch, batch_idx: int) -> Tensor:
        logits, labels = self._logits_and_labels(batch)
        # NeMo takes the smoothing mass only from the true token; torch gives the true token its share of it back.
        share = self.config.model.label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1)
        return F.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=share)

    def _logits_and_labels(self, batch: TranslationBatch) -> tuple[Tensor, Tensor]:
        """For all tokens except the first of each target: [B·(T - 1), V] in at least float32, and [B·(T - 1)]."""
        logits = self(batch.source, batch.target[:, :-1], batch.is_padded).flatten(0, 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), batch.target[:, 1:].flatten()

    def random_batch(self, size: int) -> TranslationBatch:
        shape = (size // (2 * _RANDOM_LENGTH), _RANDOM_LENGTH)
        source, target = (torch.randint(END + 1, self.config.model.vocabulary, shape) for _ in range(2))
        return TranslationBatch(source, target, is_padded=False)

    def counted(self, batch: TranslationBatch) -> tuple[int, str]:
        return batch.target[:, 1:].numel(), "target tokens"  # the predicted ones

    # ------------------------------------------------------------------------------------ decoding

    def translate(self, source: Tensor, beams: int) -> Tensor:
        """Tokens [B, longest output] of the translations of `source` [B, S], padded.

        Each sentence has its own limit, so its translation does not depend on the rest of the batch.
        """
        limits = self._limits(source)
        search = {"length_penalty": self.config.data.length_penalty, "early_stopping": False} if beams > 1 else {}
        outputs: Tensor = self.network.generate(  # type: ignore[misc, assignment]
            input_ids=source,
            attention_mask=source != PAD,
            do_sample=False,
            num_beams=beams,
            max_length=None,
            max_new_tokens=int(limits.max()),
            suppress_tokens=[PAD, BEGIN],
            logits_processor=LogitsProcessorList([_EndAtLimit(limits.repeat_interleave(beams))]),
            **search,
        )
        ends = outputs == END
        return outputs.masked_fill(ends.cumsum(dim=1) > ends, PAD)  # beam search pads with END, because PAD is 0

    def log_probability(self, source: Tensor, outputs: Tensor) -> Tensor:
        """Of `outputs` [B, T] of `translate`, given `source` [B, S]: float64 [B], in nats.

        An END that the limit forced is not counted: the model did not choose it.
        """
        log_probabilities = self(source, outputs[:, :-1]).double().log_softmax(dim=-1)
        of_tokens = log_probabilities.gather(-1, outputs[:, 1:, None])[..., 0]
        positions = torch.arange(1, outputs.shape[1], device=outputs.device)
        counted = (outputs[:, 1:] != PAD) & (positions < self._limits(source)[:, None])
        return torch.where(counted, of_tokens, 0.0).sum(dim=1)

    def _limits(self, source: Tensor) -> Tensor:
        """The maximum number of new tokens of each output, END included: [B]."""
        data = self.config.data
        return torch.clamp((source != PAD).sum(dim=1) + data.extra_output, max=data.max_output)

    def _timed_translate(self, source: Tensor, beams: int) -> Tensor:
        start = time.perf_counter()
        outputs = self.translate(source, beams)
        self._seconds[beams] = self._seconds.get(beams, 0.0) + time.perf_counter() - start
        return outputs

    # ------------------------------------------------------------------------------------ evaluation

    def evaluation_start(self) -> None:
        self._predictions: list[dict[str, Any]] = []
        self._nats, self._tokens, self._not_worse = 0.0, 0, 0
        self._seconds: dict[int, float] = {}

    def evaluation_step(self, batch: TranslationBatch) -> list[dict[str, Any]]:
        logits, labels = self._logits_and_labels(batch)
        self._nats += float(F.cross_entropy(logits.double(), labels, ignore_index=PAD, reduction="sum"))
        self._tokens += int((labels != PAD).sum())
        columns = {"index": batch.indices, "input": batch.texts, "reference": batch.references}
        outputs = greedy = self._timed_translate(batch.source, 1)
        if batch.beams > 1:
            outputs = self._timed_translate(batch.source, batch.beams)
            gain = self.log_probability(batch.source, outputs) - self.log_probability(batch.source, greedy)
            self._not_worse += int((gain > -_ROUNDING).sum())
            columns["greedy"] = [self.text_data.text(row) for row in greedy.tolist()]
        columns["output"] = [self.text_data.text(row) for row in outputs.tolist()]
        predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self._predictions += predictions
        return predictions

    def evaluation_end(self) -> dict[str, Metric]:
        counts = [self._nats, self._tokens, len(self._predictions), self._not_worse]
        nats, tokens, n, not_worse = self.sum_over_processes(torch.tensor(counts, dtype=torch.float64)).tolist()
        predictions = sorted(self._of_all_processes(self._predictions), key=lambda prediction: prediction["index"])
        references = [prediction["reference"] for prediction in predictions]
        metrics = {"loss": Metric(nats / tokens, round(tokens), "nats")}
        for beams, seconds in sorted(self._seconds.items(), reverse=True):
            widest = beams == max(self._seconds)
            suffix = "" if widest else "_greedy"
            outputs = [prediction["output" if widest else "greedy"] for prediction in predictions]
            exact = sum(output == reference for output, reference in zip(outputs, references, strict=True))
            metrics |= {
                f"sacrebleu{suffix}": Metric(self._sacrebleu(outputs, references), round(n), "BLEU"),
                f"tokenbleu{suffix}": Metric(scoring.token_bleu(outputs, references), round(n), "BLEU"),
                f"exact{suffix}": Metric(100 * exact / n, round(n), "%"),
                f"sentences_per_second{suffix}": Metric(len(self._predictions) / seconds, round(n), "sentences/s"),
            }
        if len(self._seconds) > 1:
            metrics["beam_not_worse"] = Metric(100 * not_worse / n, round(n), "%")
        return metrics

    def _sacrebleu(self, outputs: list[str], references: list[str]) -> float:
        return scoring.sacrebleu(outputs, references, tokenize=self.config.data.tokenize)

    @staticmethod
    def _of_all_processes(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The predictions of all processes of this training."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return predictions
        shares: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, predictions)
        return [prediction for share in shares for prediction in share]


class _EndAtLimit(LogitsProcessor):
    """Ends each output that has reached its limit of new tokens, END included."""

    def __init__(self, limits: Tensor) -> None:
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        full = input_ids.shape[1] >= self.limits  # one more token is allowed, and the BEGIN at the start does not count
        scores[full] = -torch.inf
        scores[full, END] = 0.0
        return scores


def build(config: CellConfig) -> tuple[TranslationTask, TranslationData]:
    data = TranslationData(config)
    return TranslationTask(config, data), data
