"""Translation: the Transformer's training step, greedy and beam decoding, SacreBLEU and token BLEU.

B sentences, S source pieces, T target pieces, V vocabulary.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LogitsProcessor, LogitsProcessorList

from novobench.config import CellConfig, data_root
from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.metric import Metric
from novobench.tasks.translation import scoring
from novobench.tasks.translation.data import collate, identify, open_pairs
from novobench.tasks.translation.model import BEGIN, END, PAD
from novobench.tasks.translation.model import build as build_model

_ROUNDING = 1e-4
"""Differences of log-probabilities, in nats, that the arithmetic may make."""
_TIMED_LENGTH = 32
"""Pieces of either side in `random_batch`; about the mean of WMT14 with 8,192 pieces."""


class TranslationTask(TaskModule):
    """Label-smoothed cross-entropy, averaged over the target pieces of a micro-batch.

    The gradient of an update is the mean of its micro-batches' gradients, as in NeMo: a piece counts a little more in
    a micro-batch that holds fewer of them.

    Test sets are translated greedily and by beam search, `search` greedily alone. `sacrebleu`, `tokenbleu` and `exact`
    judge the widest search that was done, those with `_greedy` the other. `beam_not_worse` is the share of sentences
    for which the model finds the beam's output at least as likely as the greedy one: near 100 % if the search works.
    """

    def __init__(self, config: CellConfig, data: TranslationData) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        self.text_data = data  # its BPE model turns outputs into text
        self.scoring = scoring.signatures(config.data.tokenize)
        self.evaluation_start()

    def forward(self, source: Tensor, target: Tensor, padded: bool = True) -> Tensor:
        """Logits [B, T, V] of the piece after each of `target` [B, T], given `source` [B, S], `padded` or not."""
        mask = source != PAD if padded else None
        return self.network(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False).logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        logits, labels = self._logits_and_labels(batch)
        # NeMo takes the smoothing from the true piece alone; torch gives the true piece its share of it back.
        share = self.config.model.label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1)
        return F.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=share)

    def _logits_and_labels(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of all pieces but the first of each target: [B·(T - 1), V] in at least float32, and [B·(T - 1)]."""
        logits = self(batch["source"], batch["target"][:, :-1], batch.get("padded", True)).flatten(0, 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), batch["target"][:, 1:].flatten()

    def random_batch(self, size: int) -> dict[str, Any]:
        shape = (size // (2 * _TIMED_LENGTH), _TIMED_LENGTH)
        source, target = (torch.randint(END + 1, self.config.model.vocabulary, shape) for _ in range(2))
        return {"source": source, "target": target, "padded": False}

    def counted(self, batch: dict[str, Any]) -> tuple[int, str]:
        return batch["target"][:, 1:].numel(), "target tokens"  # those that are predicted

    # ------------------------------------------------------------------------------------ decoding

    def translate(self, source: Tensor, beams: int) -> Tensor:
        """Pieces [B, up to the longest output] of the translations of `source` [B, S], padded.

        Each sentence has its own limit, so its translation does not depend on its company.
        """
        limits = self._limits(source)
        search = {"length_penalty": self.config.data.length_penalty, "early_stopping": False} if beams > 1 else {}
        found: Tensor = self.network.generate(  # type: ignore[misc, assignment]
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
        ends = found == END
        return found.masked_fill(ends.cumsum(dim=1) > ends, PAD)  # beam search fills up with END, as PAD is piece 0

    def log_probability(self, source: Tensor, pieces: Tensor) -> Tensor:
        """Of outputs `pieces` [B, T] of `translate`, given `source` [B, S]: [B], float64.

        An end that the limit forced is not counted: the model did not choose it.
        """
        logits = self(source, pieces[:, :-1]).double().log_softmax(dim=-1)
        chosen = logits.gather(-1, pieces[:, 1:, None])[..., 0]
        places = torch.arange(1, pieces.shape[1], device=pieces.device)
        counted = (pieces[:, 1:] != PAD) & (places < self._limits(source)[:, None])
        return torch.where(counted, chosen, 0.0).sum(dim=1)

    def _limits(self, source: Tensor) -> Tensor:
        """The most new pieces of each output, its end included: [B]."""
        data = self.config.data
        return torch.clamp((source != PAD).sum(dim=1) + data.extra_output, max=data.max_output)

    def _timed(self, source: Tensor, beams: int) -> Tensor:
        start = time.perf_counter()
        pieces = self.translate(source, beams)
        self._seconds[beams] = self._seconds.get(beams, 0.0) + time.perf_counter() - start
        return pieces

    # ------------------------------------------------------------------------------------ evaluation

    def evaluation_start(self) -> None:
        self._predictions: list[dict[str, Any]] = []
        self._nats, self._pieces, self._not_worse = 0.0, 0, 0
        self._seconds: dict[int, float] = {}

    def evaluation_step(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        logits, labels = self._logits_and_labels(batch)
        self._nats += float(F.cross_entropy(logits.double(), labels, ignore_index=PAD, reduction="sum"))
        self._pieces += int((labels != PAD).sum())
        source, beams = batch["source"], batch["beams"][0]
        columns = {key: batch[key] for key in ("index", "input", "reference")}
        found = greedy = self._timed(source, 1)
        if beams > 1:
            found = self._timed(source, beams)
            likelier = self.log_probability(source, found) - self.log_probability(source, greedy) > -_ROUNDING
            self._not_worse += int(likelier.sum())
            columns["greedy"] = [self.text_data.text(row) for row in greedy.tolist()]
        columns["output"] = [self.text_data.text(row) for row in found.tolist()]
        predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self._predictions += predictions
        return predictions

    def evaluation_end(self) -> dict[str, Metric]:
        counts = [self._nats, self._pieces, len(self._predictions), self._not_worse]
        nats, pieces, n, not_worse = self.sum_over_processes(torch.tensor(counts, dtype=torch.float64)).tolist()
        predictions = sorted(self._of_all_processes(self._predictions), key=lambda prediction: prediction["index"])
        references = [prediction["reference"] for prediction in predictions]
        metrics = {"loss": Metric(nats / pieces, round(pieces), "nats")}
        for beams, seconds in sorted(self._seconds.items(), reverse=True):
            widest = beams == max(self._seconds)
            ending = "" if widest else "_greedy"
            outputs = [prediction["output" if widest else "greedy"] for prediction in predictions]
            exact = sum(output == reference for output, reference in zip(outputs, references, strict=True))
            metrics |= {
                f"sacrebleu{ending}": Metric(self._sacrebleu(outputs, references), round(n), "BLEU"),
                f"tokenbleu{ending}": Metric(scoring.token_bleu(outputs, references), round(n), "BLEU"),
                f"exact{ending}": Metric(100 * exact / n, round(n), "%"),
                f"sentences_per_second{ending}": Metric(len(self._predictions) / seconds, round(n), "sentences/s"),
            }
        if len(self._seconds) > 1:
            metrics["beam_not_worse"] = Metric(100 * not_worse / n, round(n), "%")
        return metrics

    def _sacrebleu(self, outputs: list[str], references: list[str]) -> float:
        return scoring.sacrebleu(outputs, references, tokenize=self.config.data.tokenize)

    @staticmethod
    def _of_all_processes(mine: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return mine
        shares: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, mine)
        return [prediction for share in shares for prediction in share]


class _EndAtLimit(LogitsProcessor):
    """Ends each output that has reached its limit of new pieces, the sentence mark included."""

    def __init__(self, limits: Tensor) -> None:
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        full = input_ids.shape[1] >= self.limits  # one piece more, and the mark at the start does not count
        scores[full] = -torch.inf
        scores[full, END] = 0.0
        return scores


class TranslationData(TaskData):
    """The three sources behind one door; see `data.open_pairs`."""

    collate = staticmethod(collate)
    packed = True

    def setup(self, stage: str) -> None:
        splits = open_pairs(self.config, data_root(self.config))
        self.train = splits.train
        self.evaluation_sets = [EvaluationSet("search", "search", splits.search)]
        self.evaluation_sets += [EvaluationSet(name, "test", pairs) for name, pairs in splits.tests.items()]
        self.fingerprint, self.counts, self.baselines = splits.fingerprint, splits.counts, splits.baselines
        self._bpe = splits.model

    def identify(self) -> str:
        return identify(self.config, data_root(self.config))

    def text(self, pieces: list[int]) -> str:
        """Pieces as text: up to the first end, without sentence marks."""
        pieces = pieces[: pieces.index(END)] if END in pieces else pieces
        return self._bpe.decode([piece for piece in pieces if piece not in (PAD, BEGIN)])


def build(config: CellConfig) -> tuple[TranslationTask, TranslationData]:
    data = TranslationData(config)
    return TranslationTask(config, data), data
