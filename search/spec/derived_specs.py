"""Studies derived from another study: one trial trained again, and a comparison of its parts."""

from collections.abc import Mapping
from dataclasses import replace

from search.spec.domains import Fixed, Value
from search.spec.parameters import DEFAULTS
from search.spec.points import AblationRow
from search.spec.search_space import irrelevance_reason
from search.spec.study_spec import StudySpec


def single_trial_spec(
    spec: StudySpec, config: Mapping[str, Value], *, question: str, seed: int, **budget: object
) -> StudySpec:
    """Derive a study of one trial that trains exactly this configuration to the end.

    Args:
        spec: The study of the configuration.
        config: The flat configuration. Keys that an older version did not have take their defaults.
        question: The question of the new study.
        seed: Seed of the weights and the image order.
        **budget: Changes to [budget].
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
        template=None,
        recipe=None,
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
    """Derive a comparison of exactly these configurations, each trained to the end with `repeats` seeds.

    The first configuration is the base. A row has the values that differ from it and have a meaning.

    Args:
        spec: The study of the configurations.
        configs: The complete flat configurations by row name.
        question: The question of the new study.
        seed: Seed of the study.
        repeats: Trials per configuration.
        **budget: Changes to [budget].
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
        template=None,
        recipe=None,
    )
