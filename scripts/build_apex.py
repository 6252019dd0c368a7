"""Build the 2 of apex's 14 CUDA files that FusedNovoGrad needs, so that `novobench bench optimizer` can time it.

    python scripts/build_apex.py SOURCE TARGET      SOURCE: a checkout of https://github.com/NVIDIA/apex

Then put TARGET on PYTHONPATH. This needs nvcc, of torch's CUDA version, and ninja, and takes a minute on three cores.
The code is compiled for this machine's GPU, or for TORCH_CUDA_ARCH_LIST, e.g. 9.0.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import torch

BINDING = """
#include <torch/extension.h>
void multi_tensor_novograd_cuda(int chunk_size, at::Tensor noop_flag, std::vector<std::vector<at::Tensor>> tensor_lists,
                                at::Tensor grad_norms, const float lr, const float beta1, const float beta2,
                                const float epsilon, const int step, const int bias_correction,
                                const float weight_decay, const int grad_averaging, const int mode,
                                const int norm_type);
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("multi_tensor_novograd", &multi_tensor_novograd_cuda, py::call_guard<py::gil_scoped_release>());
}
"""
"""The NovoGrad part of apex's amp_C_frontend.cpp, which binds all 14 files."""


def main(source: Path, target: Path) -> None:
    kernels, build = source / "csrc", target / "build"
    build.mkdir(parents=True, exist_ok=True)
    (build / "lock").unlink(missing_ok=True)  # a killed build leaves it, and torch would wait for it
    binding = build / "binding.cpp"
    if not binding.exists() or binding.read_text() != BINDING:  # rewriting it would recompile it
        binding.write_text(BINDING)
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:  # torch's default adds PTX for later GPUs
        os.environ["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())
    if home := cuda_home():
        os.environ["CUDA_HOME"] = str(home)
    from torch.utils.cpp_extension import load  # reads CUDA_HOME at import

    extension = load(
        "amp_C",
        [str(binding), *(str(kernels / f"multi_tensor_{name}.cu") for name in ("novograd", "l2norm_kernel"))],
        extra_include_paths=[str(kernels), *pip_headers()],
        extra_cflags=["-O3"],  # the flags of apex's setup.py
        extra_cuda_cflags=["-O3", "-lineinfo", "--use_fast_math"],
        build_directory=str(build),
        verbose=True,
    )
    shutil.copy(extension.__file__, target)
    shutil.copytree(source / "apex", target / "apex", dirs_exist_ok=True, ignore=shutil.ignore_patterns("contrib"))


def cuda_home() -> Path | None:
    """The folder of a complete CUDA toolkit. torch takes the parent of nvcc's folder, which is wrong for a wrapper."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), nvcc and str(Path(nvcc).resolve().parents[1]), "/usr/local/cuda"]
    folders = [*(Path(name) for name in candidates if name), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    return next((p for p in folders if (p / "bin/nvcc").exists() and (p / "include/cuda_runtime.h").exists()), None)


def pip_headers() -> list[str]:
    """Headers of CUDA's libraries from torch's wheels. A CUDA toolkit with little more than nvcc lacks them."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    return [str(path) for folder in folders or [] for path in sorted(Path(folder).glob("*/include"))]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
