"""`runtime.cuda_graphs` with a stand-in for torch's graphs that shares their traps; tests/gpu has real ones."""

import pytest
import torch

from novobench.errors import ConfigError
from novobench.training import cell, graphs
from tests.cells import result, small_cell
from tests.tasks.translation.small import small_cell as small_translation


def graphed(part, inputs, *, allow_unused_input):
    """As `torch.cuda.make_graphed_callables`: warms up, and from then on inputs, outputs and gradients lie in the same
    memory at every call, where the next call overwrites them."""
    original, parameters = part.forward, tuple(part.parameters())
    live: list[tuple[torch.Tensor, ...]] = []

    def forward():
        with torch.enable_grad():
            outputs = original(*inputs)
        live[:] = [outputs if isinstance(outputs, tuple) else (outputs,)]
        return live[0]

    def backward(gradients):
        outputs = [output for output in live[0] if output.requires_grad]
        needed = [gradient for gradient, output in zip(gradients, live[0], strict=True) if output.requires_grad]
        return torch.autograd.grad(outputs, parameters, needed, allow_unused=allow_unused_input)

    for _ in range(3):
        static_outputs = [output.detach().clone() for output in forward()]
        gradients_now = backward([torch.empty_like(output) for output in static_outputs])
    static_gradients = [None if gradient is None else torch.empty_like(gradient) for gradient in gradients_now]

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            for mine, new in zip(inputs, arguments, strict=False):
                mine.copy_(new)
            for mine, new in zip(static_outputs, forward(), strict=True):
                mine.copy_(new.detach())
            return tuple(output.detach() for output in static_outputs)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, *gradients):
            for mine, new in zip(static_gradients, backward(gradients), strict=True):
                if mine is not None:
                    mine.copy_(new)
            none = (None,) * len(inputs)
            return (*none, *(None if mine is None else mine.detach() for mine in static_gradients))

    def replaced(*arguments):
        if not part.training:
            return original(*arguments)
        outputs = Graphed.apply(*arguments, *parameters)
        return outputs if len(outputs) > 1 else outputs[0]

    part.forward = replaced
    graphed_parts.append(part)


graphed_parts: list[torch.nn.Module] = []


@pytest.fixture
def stand_in(monkeypatch):
    graphed_parts.clear()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(graphs, "check", lambda *_: None)
    monkeypatch.setattr("novobench.hardware.accelerator", lambda: "cuda")


@pytest.mark.parametrize("task", ["image", "language"])
def test_a_graph_changes_no_bit(task, stand_in, tmp_path):
    """With two micro-batches an update, batch norm, and memory that goes from one segment to the next."""
    plain, graphed_one = (
        small_cell(tmp_path / str(on), task, runtime__cuda_graphs=on, runtime__accelerator="auto")
        for on in (False, True)
    )
    cell.run(plain.path)
    assert not graphed_parts
    cell.run(graphed_one.path)
    assert len(graphed_parts) == 1
    assert result(graphed_one) == result(plain)


@pytest.mark.slow
def test_batch_norm_statistics_of_evaluation_weights_need_no_graph(stand_in, monkeypatch, tmp_path):
    """A graph has the momentum of the running averages built in."""

    def checked(part, inputs, **options):
        graphed(part, inputs, **options)
        replay = part.forward

        def forward(*arguments):
            momenta = {layer.momentum for layer in part.modules() if isinstance(layer, torch.nn.BatchNorm2d)}
            assert momenta == {0.1} or not part.training
            return replay(*arguments)

        part.forward = forward

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", checked)
    name = "tests.training.averaged:AveragedSGD"
    folders = [
        small_cell(tmp_path / str(on), optimizer__name=name, runtime__cuda_graphs=on, runtime__accelerator="auto")
        for on in (False, True)
    ]
    cell.run(folders[0].path)
    cell.run(folders[1].path)
    assert result(folders[1]) == result(folders[0])


def test_a_resumed_training_makes_its_graph_anew(stand_in, tmp_path):
    folder = small_cell(tmp_path, "language", runtime__cuda_graphs=True, runtime__accelerator="auto")
    cell.run(folder.path)
    expected = result(folder)
    folder.record.unlink()
    for path in sorted(folder.checkpoints.iterdir())[1:]:
        path.unlink()
    cell.run(folder.path)
    assert len(graphed_parts) == 2
    assert result(folder) == expected


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_cpu_has_no_cuda_graphs(accelerator, tmp_path):
    with pytest.raises(ConfigError, match="'runtime.cuda_graphs' is true, but this training runs on cpu"):
        cell.run(small_cell(tmp_path, runtime__cuda_graphs=True, runtime__accelerator=accelerator).path)


def test_a_task_whose_shapes_differ_has_no_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("novobench.hardware.accelerator", lambda: "cuda")
    changes = {"runtime__cuda_graphs": True, "runtime__accelerator": "auto"}
    with pytest.raises(ConfigError, match="shapes of the task 'translation' differ"):
        cell.run(small_translation(tmp_path, **changes).path)
