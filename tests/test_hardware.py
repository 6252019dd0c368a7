"""The GPUs that this process may use."""

import pytest

from novobench import hardware


@pytest.mark.parametrize(
    ("given", "installed", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 2, []),
        ("0", 2, ["0"]),
        ("1,0", 2, ["1", "0"]),
        (" 0 , 1 ", 2, ["0", "1"]),
        ("01", 2, ["1"]),
        ("-1", 2, []),
        ("0,-1,1", 2, ["0"]),
        ("0,7,1", 2, ["0"]),
        ("7", 2, []),
        ("0,,1", 2, ["0"]),
        ("none", 2, []),
        ("NoDevFiles", 2, []),
        ("all", 2, []),
        ("0,0", 2, []),
        ("0,1,0", 2, []),
        ("3", 0, ["3"]),  # no device file, as on WSL: the variable is trusted
        ("GPU-8932f937", 2, ["GPU-8932f937"]),
        ("GPU-8932f937,GPU-5", 2, ["GPU-8932f937", "GPU-5"]),
        ("GPU-8932f937,GPU-8932f937", 2, []),
        ("GPU-8932f937,0", 2, ["GPU-8932f937"]),
        ("0,GPU-8932f937", 2, ["0"]),
        ("MIG-GPU-8932f937/1/2", 1, ["MIG-GPU-8932f937/1/2"]),
        ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]),
    ],
)
def test_gpus_that_cuda_would_see(monkeypatch, given, installed, expected):
    """The rules for CUDA_VISIBLE_DEVICES in NVIDIA's programming guide."""
    monkeypatch.setattr(hardware, "_count_gpu_devices", lambda: installed)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert hardware.visible_gpus() == expected


@pytest.mark.parametrize(
    "given", ["", "0", "1,0", "-1", "0,-1,1", "none", "0,0", "GPU-8932f937,0", "MIG-a,MIG-b", "01"]
)
def test_torch_reads_the_variable_the_same_way(monkeypatch, given):
    from torch.cuda import _parse_visible_devices

    monkeypatch.setattr(hardware, "_count_gpu_devices", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert hardware.visible_gpus() == [str(each) for each in _parse_visible_devices()]


def test_processors_of_one_name_are_told_apart(monkeypatch):
    """Two generations of a cloud's processor, whose model name is the same."""
    lines = ["cpu family\t: 25", "model\t\t: {}", "model name\t: AMD EPYC", "", "processor\t: 1"]
    cpuinfo = "\n".join(lines)
    names = []
    for model in (1, 17):
        hardware.processor.cache_clear()
        monkeypatch.setattr(hardware.Path, "read_text", lambda self, errors, model=model: cpuinfo.format(model))
        names.append(hardware.processor())
    hardware.processor.cache_clear()
    assert names == ["AMD EPYC (family 25, model 1)", "AMD EPYC (family 25, model 17)"]
