"""Number format of a network, by the units of the hardware."""

import pytest
import torch

from models.config import Precision
from models.precision import computes_bfloat16, is_faster_in_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "units", "faster"),
    [
        ("Intel(R) Xeon(R) Processor", {"amx_bf16", "avx512_bf16"}, True),
        ("Intel(R) Xeon(R) Processor", {"avx512_bf16"}, False),
        ("AMD EPYC", {"avx512_bf16"}, True),
        ("AMD EPYC", set(), False),
    ],
    ids=["amx", "avx512 of intel", "avx512 of amd", "neither"],
)
def test_bfloat16_is_faster_by_the_units_of_a_cpu(name: str, units: set[str], faster: bool) -> None:
    cpu = {"cpu_name": name, **{unit: unit in units for unit in ("amx_bf16", "avx512_bf16")}}

    assert is_faster_in_bfloat16(cpu) is faster


def test_a_torch_that_names_no_units_computes_in_float32() -> None:
    assert not is_faster_in_bfloat16({})


@pytest.mark.parametrize("has_amx", [True, False])
def test_auto_depends_on_this_cpu(monkeypatch: pytest.MonkeyPatch, has_amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx})

    assert computes_bfloat16("auto", CPU) is has_amx


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_explicit_precision_is_used_whatever_the_units(precision: Precision) -> None:
    assert computes_bfloat16(precision, CPU) is (precision == "bfloat16")
