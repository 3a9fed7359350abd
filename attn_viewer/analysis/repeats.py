"""The prompt on which induction heads show."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import OptionError
from ..hints import check_value

MOST_TOKENS = 10_000_000


@runtime_checkable
class Vocabulary(Protocol):
    """What a tokenizer must know."""

    all_special_ids: Any
    bos_token_id: int | None

    def get_added_vocab(self) -> dict[str, int]: ...  # noqa: D102

    def __len__(self) -> int: ...


def repeated_tokens_prompt(tokenizer: Vocabulary, length: int = 50, *, repeats: int = 2, seed: int = 0) -> list[int]:
    """Make a prompt of random tokens that are said again in the same order.

    On it a head can only know what follows from having seen it before: the test of Olsson et al. 2022, "In-context
    Learning and Induction Heads", for induction heads.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Whose tokens to use; the prompt begins with its first-token mark, if it has one.
    length, repeats : int
        Random tokens, all different, none special, and how often they are said in all.
    seed : int
        Decides which tokens.

    Returns
    -------
    list of int
        Token ids, ``repeats * length`` and the mark, for `capture_attention`.

    Raises
    ------
    OptionError
        If `length` or `repeats` is not a whole number from 2, `seed` not one from 0, or the vocabulary too small.
    """
    for name, value, least in (("length", length, 2), ("repeats", repeats, 2), ("seed", seed, 0)):
        check_value(name, value, int, at_least=least)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    plain = np.setdiff1d(np.arange(len(tokenizer)), sorted(special))
    if length > len(plain):
        raise OptionError(f"length={length} is more than the {len(plain)} plain tokens of the vocabulary")
    if length * repeats > MOST_TOKENS:
        raise OptionError(f"length * repeats must be at most {MOST_TOKENS:,}, got {length} * {repeats}")
    once = np.random.default_rng(seed).choice(plain, length, replace=False).tolist()
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*start, *once * repeats]
