"""Compiles the fused kernels for NVIDIA GPUs, which needs none, and counts their memory instructions and roundings.

`python -m tests.optim.ptx` prints one JSON object: {"norms sm_90 fp32": {"ld.global.v4": 2, ...}, ...}. A process of
its own, because the tests run with Triton's interpreter.
"""

import json
import re
from collections import Counter

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from novobench.optim import novograd_kernels as kernels
from novobench.optim.novograd_tables import BLOCK, PARTS, WARPS

DTYPES = {"fp32": (tl.float32,) * 3, "bf16": (tl.bfloat16,) * 3, "fp16": (tl.float16,) * 3}
INT64 = ("g_address", "layout", "chunks", "w_address", "m_address", "lr_address")


def memory_instructions(kernel, constants, capability):
    """How often each global load and store occurs in the PTX of `kernel`."""
    signature = {}
    for name in kernel.arg_names:
        signature[name] = "constexpr" if name in constants else "*i64" if name in INT64 else "*fp32"
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": WARPS})
    return Counter(re.findall(r"\b((?:(?:ld|st)\.global|cvt\.\w+\.b?f16)[.\w:]*)", compiled.asm["ptx"]))


def main():
    found = {}
    for capability in (80, 90):
        for name, (w, g, m) in DTYPES.items():
            constants = {"G": g, "BLOCK": BLOCK, "AMSGRAD": False}
            found[f"norms sm_{capability} {name}"] = memory_instructions(kernels.norms, constants, capability)
            flags = dict.fromkeys(("SUMMED", "SCALED", "FOUND", "DECIDED", "AMSGRAD"), False)
            constants = {"W": w, "G": g, "M": m, "PARTS": PARTS, "BLOCK": BLOCK, **flags}
            found[f"update sm_{capability} {name}"] = memory_instructions(kernels.update, constants, capability)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
