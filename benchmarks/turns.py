"""The second turn of a conversation: what is computed, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import rig
from benchmarks.figures import Comparison, Figure

FIRST, ANSWER, SECOND = 400, 32, 40  # tokens of the first prompt, of its answer and of the second message


def second_turn(loaded: rig.Loaded, *, rounds: int) -> Iterator[Figure]:
    """Tokens that the second turn computes beyond the new ones, and its first token's time against computing all."""
    computed: list[int] = []
    times: list[tuple[float, float]] = []
    with rig.Rig(loaded) as one:
        for seed in range(rounds + 1):
            one.forget()
            second = _first_turn(one, seed)
            before = one.scheduler.counters.computed_tokens
            continued = _first_token(one, second)
            computed.append(one.scheduler.counters.computed_tokens - before)
            one.forget()
            times.append((continued, _first_token(one, second)))
    both = Comparison(ours=[a for a, _ in times[1:]], peer=[b for _, b in times[1:]])
    # The answer's last token was chosen, never computed: it is new to the cache.
    yield Figure(
        name="second turn: computed tokens / new tokens",
        value=max(computed) / (SECOND + 1),
        target=1.0,
        goal="at most",
        detail=f"{max(computed)} computed of {FIRST + ANSWER + SECOND}; {SECOND} new, 1 sampled and not yet computed",
    )
    yield both.time_figure(
        "second turn: first token / computing all anew",
        f"{min(both.ours) * 1e3:.0f} / {min(both.peer) * 1e3:.0f} ms; "
        f"of the tokens, {(SECOND + 1) / (FIRST + ANSWER + SECOND):.3f} are new",
    )


def _first_turn(one: rig.Rig, seed: int) -> list[int]:
    """The prompt of the second turn: the first one, its answer, and a new message."""
    prompt, message = rig.random_prompts(one.model, 2, FIRST, 1000 + seed)
    stream = rig.Stream()
    sequence = one.sequence(prompt, ANSWER, stream)
    one.loop.submit(sequence)
    stream.wait()
    return [*sequence.tokens, *message[:SECOND]]


def _first_token(one: rig.Rig, prompt: list[int]) -> float:
    (stream,) = one.run([prompt], 1)
    return stream.times[0] - stream.started
