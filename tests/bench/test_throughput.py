"""Throughput is measured on the right model, and its numbers agree with each other; no test asserts a time."""

import pytest
import torch

from novobench.bench import peak, published, resume, throughput
from novobench.errors import ConfigError
from novobench.files import read_csv


def test_the_numbers_of_a_row_agree(tmp_path, novobench):
    output = tmp_path / "throughput.csv"
    code, out, _ = novobench(
        "bench", "throughput", "image", "--scale", "laptop", "--updates", "3", "--set", "optimizer.name=sgd",
        "--output", str(output),
    )  # fmt: skip
    assert code == 0
    assert "126,458" in out
    [row] = read_csv(output)
    assert row["optimizer"] == "sgd"
    assert row["unit"] == "images"
    assert int(row["parameters"]) == 126_458
    expected = 32 / (float(row["milliseconds"]) / 1e3)
    assert float(row["per_second"]) == pytest.approx(expected, rel=1e-6)
    assert float(row["milliseconds_low"]) <= float(row["milliseconds"]) <= float(row["milliseconds_high"])
    rate = float(row["flop_per_unit"]) * float(row["per_second"]) / 1e12
    assert float(row["teraflops_per_second"]) == pytest.approx(rate, rel=1e-6)
    assert (row["like_for_like"], row["resumed"]) == ("0", "")


def test_a_cell_at_full_scale_is_the_papers_model_with_one_micro_batch():
    config, passes = throughput.cell_of("image", "full", [])
    assert (config.batch.size, config.batch.micro, passes, config.optimizer.name) == (128, 128, 8, "novograd")
    assert config.model.widths == [64, 128, 256, 512]


def test_a_misspelt_task_or_key_is_named():
    with pytest.raises(ConfigError, match="no task 'imag'.*Known: image"):
        throughput.cell_of("imag", "full", [])
    with pytest.raises(ConfigError, match=r"no key 'runtime.precison'. Did you mean 'precision'"):
        throughput.cell_of("image", "full", ["runtime.precison=32-true"])


@pytest.mark.parametrize("attention", ["fused", "math"])
def test_language_counts_tokens(tmp_path, novobench, attention):
    output = tmp_path / "throughput.csv"
    code, out, _ = novobench(
        "bench", "throughput", "language", "--scale", "laptop", "--updates", "2", "--attention", attention,
        "--output", str(output),
    )  # fmt: skip
    assert code == 0
    assert "tokens/s" in out
    [row] = read_csv(output)
    assert (row["unit"], row["attention"], int(row["parameters"])) == ("tokens", attention, 658_504)
    assert float(row["per_second"]) == pytest.approx(8 * 32 / (float(row["milliseconds"]) / 1e3), rel=1e-6)


def test_translation_counts_target_tokens():
    config, _ = throughput.cell_of("translation", "laptop", ["batch.micro=1280"])
    training = throughput.Training(config)
    assert training.module.counted(training.random_batch()) == (20 * 31, "target tokens")  # 20 pairs of 32 tokens


def test_operations_are_those_of_the_published_network():
    """ResNet-50 v1.5 has 4.1 G multiply-adds at 224 × 224, and v2 has the same convolutions. The backward pass costs
    twice the forward pass, except that the gradient of the image is not computed: 0.12 G less."""
    config, _ = throughput.cell_of("image", "full", ["batch.micro=2", "runtime.precision=32-true"])
    training = throughput.Training(config)
    assert training.flop(training.random_batch()) / 2 / 2e9 == pytest.approx(3 * 4.1 - 0.12, rel=0.01)


def test_operations_of_attention_do_not_depend_on_its_kernels():
    small = [
        "model.layers=1",
        "model.cutoffs=[]",
        "data.segment_length=16",
        "model.memory_length=16",
        "batch.micro=2",
    ]
    config, _ = throughput.cell_of("language", "laptop", small)
    counts = set()
    for attention in ("fused", "math"):
        training = throughput.Training(config, attention)
        counts.add(training.flop(training.random_batch()))
    model = config.model
    width, inner, feed = model.width, model.heads * model.head_width, model.inner_width
    new, seen = 2 * 16, 2 * 32  # positions of two streams, without and with memory
    products = {
        "qkv": seen * width * 3 * inner,
        "distances": 32 * width * inner,
        "by distance": new * 32 * inner,
        "scores and values": 2 * new * 32 * inner,
        "output": new * inner * width,
        "feed-forward": 2 * new * width * feed,
        "softmax": new * width * model.vocabulary_size,
    }
    no_gradient_of_positions = products["distances"]  # sinusoids are not learnt
    assert counts == {2 * (3 * sum(products.values()) - no_gradient_of_positions)}


def test_peaks_by_card_name():
    assert peak.teraflops("NVIDIA H100 80GB HBM3", "16-bit") == 989.5
    assert peak.teraflops("NVIDIA H100 PCIe", "16-bit") == 756.5
    assert peak.teraflops("NVIDIA H200", "tf32") == 494.5
    assert peak.teraflops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5
    assert peak.teraflops("NVIDIA GH200 480GB", "16-bit") is None
    assert peak.teraflops("NVIDIA H100 80GB HBM3", "") is None


@pytest.mark.parametrize("task", ["image", "speech", "translation", "language"])
def test_the_settings_of_published_figures_are_valid_and_recognized(task):
    config, passes = throughput.cell_of(task, "full", published.SETTINGS[task])
    assert published.like_for_like(config)
    assert passes >= 4
    assert not published.like_for_like(throughput.cell_of(task, "full", [])[0])


@pytest.mark.parametrize(
    ("task", "micro"), [("image", 8), ("speech", 2), ("translation", 256), ("language", 4)], ids=str
)
def test_a_checkpoint_resumes_with_the_same_bits(tmp_path, novobench, task, micro):
    output = tmp_path / "throughput.csv"
    code, out, _ = novobench(
        "bench", "throughput", task, "--scale", "laptop", "--updates", "1", "--checkpoint", "--output", str(output),
        "--set", f"batch.size={2 * micro}", f"batch.micro={micro}",
    )  # fmt: skip
    assert code == 0
    [row] = read_csv(output)
    assert row["resumed"] == "same bits"
    assert float(row["checkpoint_gib"]) * 2**30 > 8 * int(row["parameters"])  # weights and the first moment
    assert "resumed: same bits" in out


def test_a_lost_optimizer_state_is_detected(monkeypatch):
    config, _ = throughput.cell_of("image", "laptop", ["batch.micro=4"])
    training = throughput.Training(config)
    load_state_dict = throughput.Training.load_state_dict

    def forgetful(self, state):
        load_state_dict(self, state)
        self.optimizer.state.clear()

    monkeypatch.setattr(throughput.Training, "load_state_dict", forgetful)
    verdict = resume.try_resuming(training, training.random_batch(), 2, lambda: throughput.Training(config)).verdict
    assert " differs by " in verdict


def test_differences_are_relative_to_the_tensor():
    kept = {"a": torch.tensor([1.0, -4.0]), "b": torch.ones(3)}
    assert resume.compared(kept, {name: value.clone() for name, value in kept.items()}) == "same bits"
    changed = kept | {"a": torch.tensor([1.5, -4.0])}
    assert resume.compared(kept, changed) == "a differs by 1.2e-01"
    assert resume.compared(kept, changed | {"b": torch.tensor([1.0, torch.nan, 1.0])}) == "b differs by nan"
    worst_first = {"b": kept["b"], "a": kept["a"]}
    assert resume.compared(worst_first, changed | {"b": torch.tensor([1.0, torch.nan, 1.0])}) == "b differs by nan"


def test_a_failing_task_loses_only_its_own_row(tmp_path, novobench, monkeypatch):
    flop = throughput.Training.flop

    def out_of_memory(self, batch):
        if self.config.task == "image":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore words")
        return flop(self, batch)

    monkeypatch.setattr(throughput.Training, "flop", out_of_memory)
    output = tmp_path / "throughput.csv"
    code, out, _ = novobench(
        "bench", "throughput", "image", "language", "--scale", "laptop", "--updates", "1", "--output", str(output)
    )
    assert code == 1
    assert "failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB." in out
    image, language = read_csv(output)
    assert (image["error"].startswith("OutOfMemoryError"), image["per_second"]) == (True, "")
    assert (language["error"], float(language["per_second"]) > 0) == ("", True)


def test_published_figures_are_printed_with_a_row_at_full_scale(capsys):
    row = throughput.Throughput("language", "full", "novograd", per_second=119_922.0, unit="tokens", like_for_like=1)
    report = throughput.Report(throughput.Throughput, (), None)
    throughput._say_details(report, row)
    first, *others = capsys.readouterr().out.splitlines()
    assert "2.00 × the published 59,961 tokens/s on one A100" in first
    assert first.endswith("like for like with the first")
    assert sum("on one H100" in line for line in others) == 1
    throughput._say_details(report, throughput.replace(row, scale="laptop"))
    assert capsys.readouterr().out == ""
