"""One trial from its draw to its outcome: draw a configuration, check that it can be trained, and train it."""

import optuna
import torch

from models.config import Impossible
from models.train import Diverged
from search.pruners.asha import PruneDecision
from search.seeds import trial_seed
from search.spec.fit import check_fit
from search.storage import attr_keys
from search.storage.claims import Claim
from search.storage.records import Obstacle
from search.study.strategy import asha
from search.trial import recorder
from search.trial.context import TrainingContext
from search.trial.final_training import FinalTraining
from search.trial.outcome import Outcome
from search.trial.recorder import TrialRecorder
from search.trial.search_training import SearchTraining
from search.trial.trial_training import Pulse, TrialTraining, step_boundaries

#: Texts of a RuntimeError for missing memory: from the CPU allocator, the GPU libraries and the GPU driver.
NO_MEMORY = ("DefaultCPUAllocator", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def evaluate_trial(context: TrainingContext, pulse: Pulse, claim: Claim, trial: optuna.Trial) -> Outcome:
    """Run a claimed trial to its end, from its checkpoint if it has one.

    Args:
        context: Database, images and device.
        pulse: Callback before each batch; it raises TrialStopped to stop the trial.
        claim: The claimed trial.
        trial: The same trial in Optuna.

    Raises:
        TrialStopped: `pulse` has raised it; the checkpoint is on the disk.
        TrialPaused: The trial waits at a rung.
        LeaseLostError: Another process owns the trial now.
    """
    trial, values = recorder.draw(context, claim, trial)
    decided = trial.user_attrs.get(attr_keys.DECISION)
    if decided is not None:
        return Outcome(reason=PruneDecision(**decided).reason)
    try:
        shape = check_fit(context.spec, values, context.limits)
        seed = trial_seed(context.spec.search, claim.number, values.get("repeat"))
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
        run = TrialTraining(
            context=context,
            claim=claim,
            trial=trial,
            values=values,
            seed=seed,
            step_epochs=step,
            on_batch=pulse,
        )
        return _execute(run, judged_from=judged_from)
    except Impossible as error:
        return Outcome(reason=f"{Obstacle.IMPOSSIBLE}: {error}", violation=1.0)
    except Diverged as error:
        return Outcome(reason=f"{Obstacle.DIVERGED}: {error}", violation=1.0)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = (str(error) or type(error).__name__).splitlines()[0]
        return Outcome(reason=f"{Obstacle.OUT_OF_MEMORY}: {message}", violation=1.0, out_of_memory=True)


def _execute(run: TrialTraining, *, judged_from: int) -> Outcome:
    """Train a trial of a search or of a final study; `judged_from` is the step of the first rung that judges it."""
    try:
        if run.context.spec.verdict_on is not None:
            return FinalTraining(run).execute()
        recorder = TrialRecorder(context=run.context, claim=run.claim, trial=run.trial, judged_from=judged_from)
        return SearchTraining(run, recorder).execute()
    finally:
        if run.training.fallback_reason is not None:
            run.files.log(f"no CUDA graph could be recorded, so training is slower: {run.training.fallback_reason}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python and torch's GPU allocator have an exception type, all others only a message."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)
