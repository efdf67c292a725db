"""Cores, memory and GPUs of this machine and of simulated ones."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from search import hardware
from search.errors import UsageError
from search.spec import study_spec
from search.study import inputs


def test_only_the_cores_that_the_process_may_use_are_counted() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from search import hardware; print(hardware.cores())"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout == "1\n"
    assert 1 <= hardware.cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5)])
def test_the_quota_of_a_control_group_is_read_as_cores(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)

    assert hardware._quota(tmp_path / "cpu.max") == cores


def test_without_a_control_group_there_is_no_quota(tmp_path: Path) -> None:
    assert hardware._quota(tmp_path / "cpu.max") is None
    assert hardware._number(tmp_path / "memory.max") is None


@pytest.mark.parametrize(("text", "number"), [("max\n", None), ("2000000000\n", 2_000_000_000)])
def test_the_memory_of_a_control_group_may_be_unlimited(tmp_path: Path, text: str, number: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)

    assert hardware._number(tmp_path / "memory.max") == number


def test_free_memory_is_never_more_than_the_machine_has() -> None:
    assert 0 < hardware.memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1, 2", 3), ("GPU-8932f937", 1)])
def test_hidden_gpus_are_not_counted(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert hardware.gpus() == count


def test_without_a_gpu_cores_and_memory_limit_the_number_of_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    devices = hardware.devices(None)

    assert set(devices) == {"cpu"}
    assert 1 <= len(devices) <= hardware.cores()


@pytest.mark.parametrize(
    ("visible", "workers", "device", "devices"),
    [
        pytest.param("0,1", None, None, ("cuda:0", "cuda:1"), id="one a GPU"),
        pytest.param("0,1", 3, None, ("cuda:0", "cuda:1", "cuda:0"), id="more workers than GPUs"),
        pytest.param("0,1", 1, None, ("cuda:0",), id="fewer workers than GPUs"),
        pytest.param("0,1", 2, "cpu", ("cpu", "cpu"), id="the CPU beside GPUs"),
        pytest.param("", 3, None, ("cpu", "cpu", "cpu"), id="as many as asked for"),
    ],
)
def test_workers_are_spread_over_the_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str, workers: int | None, device: str | None, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert hardware.devices(workers, device=device) == devices


def test_a_worker_with_a_backbone_reserves_memory_for_it() -> None:
    budget = {"trials": 2, "epochs": 1}
    plain = study_spec.build({"space": {"width": [8, 16]}, "budget": budget})
    drawn = study_spec.build({"space": {"backbone": ["none", "resnet50"]}, "budget": budget})
    rows = [{"name": "base"}, {"name": "pretrained", "backbone": "resnet18"}]
    compared = study_spec.build({"compare": rows, "budget": budget})

    assert inputs.worker_bytes(plain) == hardware.WORKER_BYTES
    assert inputs.worker_bytes(drawn) == inputs.worker_bytes(compared) == hardware.BACKBONE_BYTES
    assert [set(inputs.backbones(spec)) for spec in (drawn, compared)] == [{"resnet50"}, {"resnet18"}]


def test_a_requested_gpu_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    with pytest.raises(UsageError, match="--device cuda needs an NVIDIA GPU"):
        hardware.devices(1, device="cuda")


def test_cpu_workers_are_pinned_only_if_there_are_as_many_as_cores() -> None:
    allowed = sorted(os.sched_getaffinity(0))

    assert hardware.assign_cores(("cpu",) * len(allowed)) == tuple(allowed)
    assert hardware.assign_cores(("cpu",) * (len(allowed) + 1)) == (None,) * (len(allowed) + 1)
    assert hardware.assign_cores(("cuda:0",) * len(allowed)) == (None,) * len(allowed)


def test_a_pinned_process_stays_on_its_core_and_reuses_freed_memory() -> None:
    code = """
import os, resource
from search import process
core = max(os.sched_getaffinity(0))
process.pin_and_tune(core)
assert os.sched_getaffinity(0) == {core}
import numpy
numpy.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    numpy.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(result.stdout) < 2000  # twenty fresh allocations of 160 MB cause 780,000 page faults
