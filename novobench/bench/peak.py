"""Peak speeds of GPUs by their data sheets, to compare measured speeds with."""

from __future__ import annotations

import re

_PEAKS = (
    (r"\b(H100 NVL|H200 NVL)\b", {"16-bit": 835.5, "tf32": 417.5, "fp32": 60.0}),
    (r"\bH100 PCIe\b", {"16-bit": 756.5, "tf32": 378.0, "fp32": 51.0}),
    (r"\b(H100|H200)\b", {"16-bit": 989.5, "tf32": 494.5, "fp32": 67.0}),
    (r"\bA100\b", {"16-bit": 312.0, "tf32": 156.0, "fp32": 19.5}),
)
"""Dense TFLOP/s by the data sheets of NVIDIA's A100, H100 and H200, which print twice the numbers of the H cards'
tensor cores, "with sparsity". H100 and H200 without a further word are the SXM cards ("NVIDIA H100 80GB HBM3")."""


def teraflops(card: str, arithmetic: str) -> float | None:
    """Dense peak of a card, by the name that CUDA gives it, in `16-bit` (bf16 or fp16), `tf32` or `fp32`; None for a
    card or an arithmetic that is not listed."""
    for pattern, peaks in _PEAKS:
        if re.search(pattern, card):
            return peaks.get(arithmetic)
    return None
