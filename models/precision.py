"""In which numbers a network computes: float32, or bfloat16 where the hardware has units that multiply it faster."""

import torch

from models.config import Precision


def computes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether convolutions and dense layers compute in bfloat16 on that device, their weights staying in float32.

    Auto says yes on a GPU that has such units, and on a CPU with AMX: twice the images per second (`make bench`,
    engine). AVX512_BF16 without AMX had two thirds of float32's (studies/LOG.md).
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
