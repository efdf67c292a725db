"""Number format of a network: float32, or bfloat16 on hardware that is known to be faster with it."""

from collections.abc import Mapping
from typing import Any

import torch

from models.config import Precision


def computes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether convolutions and dense layers compute in bfloat16 on that device; weights stay in float32.

    Auto selects bfloat16 on a GPU with native support, and on a CPU that is known to be faster with it.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and is_faster_in_bfloat16(torch.cpu.get_capabilities())


def is_faster_in_bfloat16(cpu: Mapping[str, Any]) -> bool:
    """Whether a CPU with these capabilities, as torch names them, multiplies bfloat16 faster than float32.

    Images per second relative to float32 (studies/LOG.md): 2 with AMX, 1.6 with AVX512_BF16 of AMD (Zen 4), 2/3 with
    AVX512_BF16 of Intel without AMX.
    """
    is_amd = str(cpu.get("cpu_name", "")).startswith("AMD")
    return bool(cpu.get("amx_bf16") or (is_amd and cpu.get("avx512_bf16")))
