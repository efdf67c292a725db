"""One trial from its draw to its outcome: draw a configuration, check that it can be trained, and train it."""

import optuna
import torch

from models.config import Impossible
from models.train import Diverged
from search.pruners.asha import PruneDecision
from search.spec.fit import check_fit
from search.storage.leases import Claim
from search.storage.records import DECISION
from search.study.strategy import asha, trial_seed
from search.trial import recorder
from search.trial.context import TrainingContext
from search.trial.outcome import Outcome
from search.trial.search_training import Pulse, SearchTraining, step_boundaries

#: Texts of a RuntimeError for missing memory: from the CPU allocator, the GPU libraries and the GPU driver.
NO_MEMORY = ("DefaultCPUAllocator", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def evaluate_trial(
    context: TrainingContext, claim: Claim, trial: optuna.Trial, pulse: Pulse, *, kind: type[SearchTraining]
) -> Outcome:
    """Run a claimed trial to its end, from its checkpoint if it has one.

    Args:
        context: Database, images and device.
        claim: The claimed trial.
        trial: The same trial in Optuna.
        pulse: Callback before each batch; it raises TrialStopped to stop the trial.
        kind: The class that trains the trial.

    Raises:
        TrialStopped: `pulse` has raised it; the checkpoint is on the disk.
        TrialPaused: The trial waits at a rung.
        LeaseLostError: Another process owns the trial now.
    """
    trial, values = recorder.draw(context, claim, trial)
    decided = trial.user_attrs.get(DECISION)
    if decided is not None:
        return Outcome(reason=PruneDecision(**decided).reason)
    try:
        shape = check_fit(context.spec, values, context.limits)
        seed = trial_seed(context.study, claim.number, values.get("repeat"))
        budget, rungs = context.spec.budget, asha(context.spec)
        step = budget.step_epochs(images=len(context.data.train), macs=shape.macs)
        step_images = step * len(context.data.train)
        ends = step_boundaries(step_images=step_images, batch_size=values["batch_size"], steps=budget.steps)
        judged_from = rungs.judged_from(ends)
        recorder.describe(
            context,
            trial,
            parameters=shape.parameters,
            macs=shape.macs,
            seed=seed,
            judged_from=judged_from if judged_from > rungs.first_rung else None,
        )
        training = kind(
            context=context,
            claim=claim,
            trial=trial,
            on_batch=pulse,
            values=values,
            seed=seed,
            step_epochs=step,
            judged_from=judged_from,
        )
        return training.run()
    except Impossible as error:
        return Outcome(reason=f"impossible: {error}", violation=1.0)
    except Diverged as error:
        return Outcome(reason=f"diverged: {error}", violation=1.0)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = (str(error) or type(error).__name__).splitlines()[0]
        return Outcome(reason=f"out of memory: {message}", violation=1.0, out_of_memory=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python and torch's GPU allocator have an exception type, all others only a message."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)
