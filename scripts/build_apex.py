"""Build of apex what its FusedNovoGrad needs, one extension out of a dozen, so that the bench can time it.

    python scripts/build_apex.py SOURCE TARGET      SOURCE: a checkout of https://github.com/NVIDIA/apex

Put TARGET on PYTHONPATH afterwards. Needs nvcc (of torch's CUDA version) and ninja; MAX_JOBS limits what runs at once.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from torch.utils.cpp_extension import load


def main(source: Path, target: Path) -> None:
    kernels = source / "csrc"
    build = target / "build"
    build.mkdir(parents=True, exist_ok=True)
    (build / "lock").unlink(missing_ok=True)  # of a build that was killed: torch would wait for it
    files = ["amp_C_frontend.cpp", *sorted(path.name for path in kernels.glob("multi_tensor_*.cu"))]
    made = load(
        "amp_C",
        [str(kernels / name) for name in [*files, "update_scale_hysteresis.cu"]],
        extra_include_paths=[str(path) for path in pip_headers()],
        extra_cflags=["-O3"],  # these flags are those of apex's setup.py
        extra_cuda_cflags=["-O3", "-lineinfo", "--use_fast_math"],
        build_directory=str(build),
        verbose=True,
    )
    shutil.copy(made.__file__, target)
    shutil.copytree(source / "apex", target / "apex", dirs_exist_ok=True)


def pip_headers() -> list[Path]:
    """Headers of CUDA's libraries as torch's wheels bring them; a CUDA with little more than nvcc lacks them."""
    package = importlib.util.find_spec("nvidia")
    places = package.submodule_search_locations if package else None
    return [path for place in places or [] for path in sorted(Path(place).glob("*/include"))]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
