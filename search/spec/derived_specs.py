"""Studies that are made from another one: one trial again, and a comparison of its parts."""

from collections.abc import Mapping
from dataclasses import replace

from search.spec.domains import Fixed, Value
from search.spec.parameters import DEFAULTS
from search.spec.points import AblationRow
from search.spec.search_space import (
    irrelevance_reason,
)
from search.spec.study_spec import StudySpec


def single_trial_spec(
    spec: StudySpec, config: Mapping[str, Value], *, question: str, seed: int, **budget: object
) -> StudySpec:
    """A study of one trial that trains exactly this configuration, with this seed, to the end.

    What an older version did not know of it takes its default.
    """
    config = {**DEFAULTS, **config}
    return replace(
        spec,
        question=question,
        budget=spec.budget.model_copy(update={"trials": 1, "max_latency_ms": None, **budget}),
        search=spec.search.model_copy(update={"sampler": "random", "pruner": "none", "repeats": 1, "trial_seed": seed}),
        space=replace(spec.space, parameters={key: Fixed(config[key]) for key in spec.space.parameters}, when={}),
        points=(),
        rows=(),
        final=None,
    )


def ablation_spec(
    spec: StudySpec,
    configs: Mapping[str, Mapping[str, Value]],
    *,
    question: str,
    seed: int,
    repeats: int,
    **budget: object,
) -> StudySpec:
    """A comparison of exactly these configurations, by name, each trained to the end with `repeats` seeds.

    Its base is the first one; a row holds what has a meaning in it and differs.
    """
    base = next(iter(configs.values()))
    space = replace(spec.space, parameters={key: Fixed(base[key]) for key in spec.space.parameters}, when={})
    rows = [
        AblationRow(
            name=name,
            values={
                key: config[key]
                for key in space.parameters
                if config[key] != base[key] and irrelevance_reason(space, key, config) is None
            },
        )
        for name, config in configs.items()
    ]
    search = {"sampler": "grid", "pruner": "none", "repeats": repeats, "seed": seed, "trial_seed": None}
    search |= {"objective": spec.search.objectives[0]}
    return replace(
        spec,
        question=question,
        budget=spec.budget.model_copy(update={"trials": len(configs) * repeats, **budget}),
        search=spec.search.model_copy(update=search),
        space=space,
        points=(),
        rows=tuple(rows),
        final=None,
    )
