"""Compiles the fused kernels for NVIDIA GPUs, without a GPU, and describes the result.

`python -m tests.optim.compiled` prints a line for each variant, a JSON object: kernel, element types of weight,
gradient and moment, flags, capability, `registers` and `stack` bytes per thread, `shared` bytes per program, and how
often each global load, store, atomic and rounding occurs in the PTX. With `--plain` only those without flags. A process
of its own, because the tests run with Triton's interpreter.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from novobench.optim.novograd import LaunchSettings, kernels

DTYPES = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
TRIPLES = [
    ("fp32",) * 3,
    ("bf16",) * 3,
    ("fp16",) * 3,
    ("fp32", "bf16", "fp32"),
    ("bf16", "bf16", "fp32"),
    ("fp32", "fp32", "bf16"),
]
"""Element types of weight, gradient and moment; with the last the moment is rounded stochastically."""
NOT_ROUNDED = {"ROUND": False, "counters": None, "counters_old": None}
NO_OPTIONS = ("REVERSE", "EVICT", "ROUND")
"""Flags that follow from the tuning or the element types."""
INT64 = {
    "tasks", "taken", "summed", "finished", "counters", "counters_old", "layout", "chunks",
    "g_address", "w_address", "m_address", "lr_address",
}  # fmt: skip
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def variants(capability):
    """(kernel's name, element types, constants, warps) of what `launch_plan` can launch."""
    two, one = LaunchSettings().two_launches, LaunchSettings().single_launch
    overlaps = (False, True) if capability >= 90 else (False,)
    every = (False, True)
    for triple in TRIPLES:
        w, g, m = (DTYPES[name] for name in triple)
        rounded = {"ROUND": True} if triple == ("fp32", "fp32", "bf16") else NOT_ROUNDED
        for amsgrad, overlap in itertools.product(every, overlaps):
            yield (
                "norms",
                triple,
                {"G": g, "AMSGRAD": amsgrad, "BLOCK": two.block, "OVERLAP": overlap, **rounded},
                two.warps,
            )
        for scaled, found, decided, amsgrad, overlap in itertools.product(every, every, every, every, overlaps):
            if decided and scaled != found:
                continue  # neither is read then
            flags = {"SCALED": scaled, "FOUND": found, "DECIDED": decided, "AMSGRAD": amsgrad, "OVERLAP": overlap}
            shape = {"BLOCK": two.update_block(rounded["ROUND"]), "REVERSE": two.reverse, "EVICT": two.evict}
            yield "update", triple, {"W": w, "G": g, "M": m, **flags, **shape, **rounded}, two.warps
        for scaled, found, amsgrad in itertools.product(every, every, every):
            flags = {"SCALED": scaled, "FOUND": found, "AMSGRAD": amsgrad}
            shape = {"BLOCK": one.update_block(rounded["ROUND"]), "EVICT": one.evict}
            yield "norms_and_update", triple, {"W": w, "G": g, "M": m, **flags, **shape, **rounded}, one.warps
    for scaled, found, clip in itertools.product(every, every, every):
        yield "decide", (), {"SCALED": scaled, "FOUND": found, "CLIP": clip, "BLOCK": 1024}, 4


def compile_one(name, constants, warps, capability):
    """What ptxas says of one variant, and the memory instructions in its PTX."""
    kernel = getattr(kernels, name)
    types = {argument: "*i64" if argument in INT64 else "*fp32" for argument in kernel.arg_names} | {"count": "i32"}
    signature = {argument: "constexpr" if argument in constants else types[argument] for argument in kernel.arg_names}
    made = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", usage)}
    instructions = re.findall(r"\b((?:(?:ld|st|atom)\.global|cvt\.\w+\.b?f16)[.\w:]*)", made.asm["ptx"])
    return {
        "registers": found["REG"],
        "stack": found["STACK"] + found["LOCAL"],
        "shared": found["SHARED"],
        "waits_for_grid": "griddepcontrol.wait" in made.asm["ptx"],
        "instructions": dict(Counter(instructions)),
    }


def main(plain):
    for capability in (80, 90):
        for name, triple, constants, warps in variants(capability):
            flags = [
                key for key, value in constants.items() if value is True and key not in ("REVERSE", "EVICT", "ROUND")
            ]
            if plain and flags:
                continue
            row = {"kernel": name, "element_types": triple, "flags": flags, "capability": capability}
            print(json.dumps(row | compile_one(name, constants, warps, capability)), flush=True)


if __name__ == "__main__":
    main("--plain" in sys.argv)
