"""Build what apex's FusedNovoGrad needs, 2 of its 14 CUDA files, so that `novobench bench optimizer` can time it.

    python scripts/build_apex.py SOURCE TARGET      SOURCE: a checkout of https://github.com/NVIDIA/apex

Put TARGET on PYTHONPATH afterwards. Needs nvcc (of torch's CUDA version) and ninja; takes a minute on three cores.
The code is compiled for the GPU of this machine, or for what TORCH_CUDA_ARCH_LIST names, e.g. 9.0.
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
"""The line that apex's own amp_C_frontend.cpp has for NovoGrad; the whole file binds all 14."""


def main(source: Path, target: Path) -> None:
    kernels, build = source / "csrc", target / "build"
    build.mkdir(parents=True, exist_ok=True)
    (build / "lock").unlink(missing_ok=True)  # of a build that was killed: torch would wait for it
    binding = build / "binding.cpp"
    if not binding.exists() or binding.read_text() != BINDING:  # a file touched is a file compiled again
        binding.write_text(BINDING)
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:  # torch's own choice adds PTX for later GPUs
        os.environ["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())
    if home := cuda_home():
        os.environ["CUDA_HOME"] = str(home)
    from torch.utils.cpp_extension import load  # reads CUDA_HOME when it is imported

    made = load(
        "amp_C",
        [str(binding), *(str(kernels / f"multi_tensor_{name}.cu") for name in ("novograd", "l2norm_kernel"))],
        extra_include_paths=[str(kernels), *pip_headers()],
        extra_cflags=["-O3"],  # these flags are those of apex's setup.py
        extra_cuda_cflags=["-O3", "-lineinfo", "--use_fast_math"],
        build_directory=str(build),
        verbose=True,
    )
    shutil.copy(made.__file__, target)
    shutil.copytree(source / "apex", target / "apex", dirs_exist_ok=True, ignore=shutil.ignore_patterns("contrib"))


def cuda_home() -> Path | None:
    """The folder of a whole CUDA toolkit. torch takes the one above nvcc, which misleads where that is a wrapper."""
    found = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME"), found and str(Path(found).resolve().parents[1]), "/usr/local/cuda"]
    places = [*(Path(name) for name in named if name), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    return next((p for p in places if (p / "bin/nvcc").exists() and (p / "include/cuda_runtime.h").exists()), None)


def pip_headers() -> list[str]:
    """Headers of CUDA's libraries as torch's wheels bring them; a CUDA with little more than nvcc lacks them."""
    package = importlib.util.find_spec("nvidia")
    places = package.submodule_search_locations if package else None
    return [str(path) for place in places or [] for path in sorted(Path(place).glob("*/include"))]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
