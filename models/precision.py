"""In which numbers a network computes: float32, or bfloat16 where the hardware has units that multiply it faster."""

import torch

from models.config import Precision


def computes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether convolutions and dense layers compute in bfloat16 on that device, their weights staying in float32.

    Auto says yes on a CPU with AMX (2.3 times the images per second there; AVX512_BF16 alone was slower than float32)
    and on a GPU that has such units.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
