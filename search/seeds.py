"""Seeds: a pure function of the study's seed and what they are for, so that workers never repeat each other."""

import hashlib


def derive(*parts: object) -> int:
    """A seed in [0, 2**32) that depends on every part, alike on every machine (numpy takes no larger ones).

    The first four bytes of SHA-256 over the parts, so that neighbouring studies and trials share nothing.
    """
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def is_audited(seed: int, number: int, share: float) -> bool:
    """Whether a trial is one of that share of all which the pruner may not stop: drawn by its number alone."""
    return derive(seed, number, "audit") < share * 2**32
