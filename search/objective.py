"""One trial from its draw to its outcome: a configuration, whether it can be trained at all, and its run."""

import math
from typing import Any

import optuna
import torch

from models.config import Impossible, Plan, plan
from models.train import Diverged
from search import ledger, spec
from search.lease import Claim
from search.outcome import Outcome
from search.pruner import Decision
from search.run import Pulse, Run
from search.study import trial_seed
from search.workplace import Workplace

#: How the allocator of the CPU, the libraries of a GPU, and its driver say that there is no memory, in a RuntimeError.
NO_MEMORY = ("DefaultCPUAllocator", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def run(place: Workplace, claim: Claim, trial: optuna.Trial, pulse: Pulse, *, kind: type[Run]) -> Outcome:
    """Run a claimed trial to its end, from its checkpoint if it has one; `kind` is how.

    Raises:
        Stopped: `pulse` asked for it; the checkpoint is on the disk.
        Paused: the trial waits at a rung.
        LeaseLost: the trial is not ours any more.
    """
    values = ledger.draw(place, trial)
    decided = trial.user_attrs.get("decision")
    if decided is not None:
        return Outcome(reason=Decision(**decided).reason)
    try:
        shape = fitting_plan(place, values)
        seed = trial_seed(place.study, claim.number, values.get("repeat"))
        ledger.describe(place, trial, parameters=shape.parameters, macs=shape.macs, seed=seed)
        step = place.study.spec.budget.step_epochs(images=len(place.data.train), macs=shape.macs)
        one = kind(place=place, claim=claim, trial=trial, pulse=pulse, values=values, seed=seed, step_epochs=step)
        return one.to_the_end()
    except Impossible as error:
        return Outcome(reason=f"impossible: {error}", violation=1.0)
    except Diverged as error:
        return Outcome(reason=f"diverged: {error}", violation=1.0)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        words = (str(error) or type(error).__name__).splitlines()[0]
        return Outcome(reason=f"out of memory: {words}", violation=1.0, exhausted=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory: Python and torch's allocator on a GPU say so by type, all others in words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)


def fitting_plan(place: Workplace, values: dict[str, Any]) -> Plan:
    """The layers that the configuration asks for.

    Raises:
        Impossible: they do not fit together, the images, or the budget of a trial.
    """
    model, train, _ = spec.configs(place.study.spec, values)
    budget = place.study.spec.budget
    shape = plan(model, image_size=place.data.info.image_size, classes=len(place.data.info.classes))
    for name, limit in (("parameters", budget.max_parameters), ("macs", budget.max_macs)):
        asked = getattr(shape, name)
        if limit is not None and asked > limit:
            raise Impossible(f"{asked:,} {name} are more than [budget] max_{name} = {limit:,}")
    images = len(place.data.train)
    step_images = math.floor(budget.step_epochs(images=images, macs=shape.macs) * images)
    if train.batch_size > step_images:
        raise Impossible(f"a batch of {train.batch_size} is more than the {step_images} images of a step")
    return shape
