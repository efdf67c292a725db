"""How the next trial is drawn. Grid, comparison and `[[try]]` points are queues of fixed parameters, not samplers."""

import warnings

import optuna

from search.seed import derive


def build(name: str, *, study_seed: int, number: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number`: a fresh one for each trial, with a seed of its own.

    Optuna's samplers carry their random state in the process, so that workers with one seed draw the same points, and a
    resumed study repeats itself; all that TPE has learnt is in the stored trials. TPE is multivariate, with groups of
    parameters that are drawn together (conditional spaces need that), and counts running trials as bad ones so that
    parallel workers spread out (constant liar). Bergstra et al. 2011; Watanabe 2023, https://arxiv.org/abs/2304.11127.
    """
    seed = derive(study_seed, number, "sampler")
    if name != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group=True, tested in test_sampler.py
        return optuna.samplers.TPESampler(
            n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
        )
