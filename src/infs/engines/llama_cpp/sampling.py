"""Choosing tokens: a chain of llama.cpp's own samplers for each sequence."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from infs.engines.llama_cpp.model import LlamaModel
from infs.errors import InvalidRequest
from infs.types import LogitBias

MIN_KEEP = 0
COLDEST = 1e-5  # temperatures below are zero: scores divided by them would no longer be finite
MOST = 2**31 - 1
CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data
SEEDS = 2**32 - 1  # the last 32-bit number means a random seed to llama.cpp


class Sampling(Struct, frozen=True, kw_only=True):
    """Every setting with its value. The defaults are llama.cpp's own."""

    seed: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: list[LogitBias] = []

    @classmethod
    def of(cls, options: dict[str, Any]) -> Sampling:
        """The settings among `options`, and defaults for the others."""
        return cls(**{name: options[name] for name in cls.__struct_fields__ if name in options})

    @property
    def greedy(self) -> bool:
        """Whether the token with the highest score is always chosen."""
        return self.temperature < COLDEST and not (self.penalizes or self.dry_multiplier)

    @property
    def penalizes(self) -> bool:
        """Whether repeated tokens are penalised, which needs the tokens before."""
        return self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


class Sampler:
    """One sequence's chain. Must be freed with `close`.

    Args:
        context: tokens of the context, which is how far penalties over all of it reach.
        choice: number of the choice: choices of one request with a seed differ by it.
        ban: tokens that are never chosen.
    """

    def __init__(
        self, model: LlamaModel, sampling: Sampling, *, context: int, choice: int = 0, ban: Sequence[int] = ()
    ) -> None:
        self.chain: Any = None
        self.banned: frozenset[int] = frozenset()
        self._biased = False
        self._model = model
        self._sampling = sampling
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._seed = (seed + choice) % SEEDS
        self._reach = context
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        try:
            self._build(ban)
        except BaseException:
            self.close()
            raise

    def sample(self, context: Any, row: int) -> int:
        """Choose by the scores in `row` of `context`; the choice counts for the next one."""
        token: int = llama_cpp.llama_sampler_sample(self.chain, context, row)
        return token

    @property
    def greedy(self) -> bool:
        """Whether the best score wins as it is: then it is found faster without the chain."""
        return self._sampling.greedy and not self._biased

    def note(self, tokens: Sequence[int]) -> None:
        """Tokens that were not chosen here, such as the prompt's, for the penalties that look back."""
        if self._sampling.penalizes or self._sampling.dry_multiplier:
            for token in tokens:
                llama_cpp.llama_sampler_accept(self.chain, token)

    @property
    def chance(self) -> bool:
        """Whether the choice is not always the same."""
        return self._sampling.temperature >= COLDEST

    def repeat(self, scores: NDArray[np.float32], token: int) -> None:
        """`token` was chosen before, by these scores: chance, and what else the chain remembers, move on as then.

        Args:
            scores: of all tokens, shape (vocabulary,).
        """
        if self.chance:
            candidates = np.empty(len(scores), CANDIDATE)
            candidates["id"] = np.arange(len(scores))
            candidates["logit"] = scores
            candidates["p"] = 0.0
            data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
            array = llama_cpp.llama_token_data_array(data=data, size=len(scores), selected=-1, sorted=False)
            llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        llama_cpp.llama_sampler_accept(self.chain, token)

    def close(self) -> None:
        """Free the chain."""
        if self.chain:
            llama_cpp.llama_sampler_free(self.chain)
            self.chain = None

    def __del__(self) -> None:
        self.close()  # of a request that was cancelled before it was submitted

    # --- the chain

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self.chain, sampler)

    def _build(self, ban: Sequence[int]) -> None:
        s = self._sampling
        self._add_bias(ban)
        if s.penalizes:
            last = self._last(s.penalty_last_n)
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    self._model.size, last, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
                )
            )
        if s.dry_multiplier:
            self._add_dry()
        if s.temperature < COLDEST:
            self._add(llama_cpp.llama_sampler_init_greedy())
        elif s.mirostat:
            self._add_mirostat()
        else:
            self._add_truncation()
            self._add(llama_cpp.llama_sampler_init_temp(s.temperature))
            self._add(llama_cpp.llama_sampler_init_dist(self._seed))

    def _last(self, count: int) -> int:
        """How many tokens back `count` means: negative is all of the context, and more there are not."""
        return self._reach if count < 0 else min(count, self._reach)

    def _add_truncation(self) -> None:
        s = self._sampling
        if s.top_n_sigma > 0:
            self._add(llama_cpp.llama_sampler_init_top_n_sigma(s.top_n_sigma))
        if s.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(min(s.top_k, MOST)))
        if s.typical_p < 1.0:
            self._add(llama_cpp.llama_sampler_init_typical(s.typical_p, MIN_KEEP))
        if s.top_p < 1.0:
            self._add(llama_cpp.llama_sampler_init_top_p(s.top_p, MIN_KEEP))
        if s.min_p > 0.0:
            self._add(llama_cpp.llama_sampler_init_min_p(s.min_p, MIN_KEEP))
        if s.xtc_probability > 0.0:
            self._add(llama_cpp.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, MIN_KEEP, self._seed))

    def _add_mirostat(self) -> None:
        s = self._sampling
        self._add(llama_cpp.llama_sampler_init_temp(s.temperature))
        if s.mirostat == 1:
            self._add(
                llama_cpp.llama_sampler_init_mirostat(self._model.size, self._seed, s.mirostat_tau, s.mirostat_eta, 100)
            )
        else:
            self._add(llama_cpp.llama_sampler_init_mirostat_v2(self._seed, s.mirostat_tau, s.mirostat_eta))

    def _add_dry(self) -> None:
        s = self._sampling
        breakers = [text.encode("utf-8") for text in s.dry_sequence_breakers]
        array = (ctypes.c_char_p * max(1, len(breakers)))(*breakers)
        length, last = min(s.dry_allowed_length, MOST), self._last(s.dry_penalty_last_n)
        self._add(
            llama_cpp.llama_sampler_init_dry(
                self._model.vocab, s.dry_multiplier, s.dry_base, length, last, array, len(breakers)
            )
        )

    def _add_bias(self, ban: Sequence[int]) -> None:
        bias = bias_by_token(self._model, self._sampling.logit_bias) | dict.fromkeys(ban, -np.inf)
        self._biased = bool(bias)
        if not bias:
            return
        self.banned = frozenset(token for token, value in bias.items() if value == -np.inf)
        if len(self.banned) == self._model.size:
            raise InvalidRequest("logit_bias bans every token that the model has.", param="logit_bias")
        array = (llama_cpp.llama_logit_bias * len(bias))()
        for index, (token, value) in enumerate(bias.items()):
            array[index].token, array[index].bias = token, value
        self._add(llama_cpp.llama_sampler_init_logit_bias(self._model.size, len(bias), array))


def bias_by_token(model: LlamaModel, biases: Sequence[LogitBias]) -> dict[int, float]:
    """What is added to which token's score; -100 and less, as is the custom, bans the token.

    Raises:
        InvalidRequest: for a token that the model does not have.
    """
    result: dict[int, float] = {}
    for bias in biases:
        if isinstance(bias.token, int):
            tokens = [bias.token]
        else:
            tokens = model.tokenize(bias.token, add_special=False, parse_special=True)
            if not tokens:
                raise InvalidRequest("logit_bias names an empty text, which has no tokens.", param="logit_bias")
        model.check_tokens(tokens, "logit_bias")
        result |= dict.fromkeys(tokens, -np.inf if bias.bias <= -100 else bias.bias)
    return result
