"""Seeds: a pure function of the study seed and the purpose. Workers never repeat each other's seeds."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.spec.settings import SearchSettings


def derive(*parts: object) -> int:
    """Derive a seed from all parts, equal on every machine.

    Args:
        *parts: The study seed, and the purpose of the new seed.

    Returns:
        The first four bytes of SHA-256 over the parts, in [0, 2**32): numpy accepts no larger seeds. Neighbouring
        studies and trials are independent.
    """
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def trial_seed(search: "SearchSettings", number: int, repeat: int | None) -> int:
    """The seed of the weights, data order and augmentation of a trial.

    The rows of a designed comparison share one seed per repeat; this allows pairwise comparison.

    Args:
        search: The settings of the search.
        number: The trial number.
        repeat: The repeat of a designed comparison; None in a search.
    """
    if search.trial_seed is not None:
        return search.trial_seed
    return derive(search.seed, *((number, "trial") if repeat is None else (repeat, "repeat")))


def is_audited(seed: int, number: int, share: float) -> bool:
    """Whether the pruner may not stop a trial. The decision depends only on the seed and the trial number.

    Args:
        seed: The study seed.
        number: The trial number.
        share: Share of the trials to audit, 0 to 1.
    """
    return derive(seed, number, "audit") < share * 2**32
