"""Guessing by repetition, against looking through everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from infs.batching.lookup import Match, PromptLookup, continuation


def agreement(tokens: list[int], end: int, longest: int) -> int:
    """How many tokens before `end` are those at the end of all; at most `longest`."""
    count = 0
    while count < min(end, longest) and tokens[end - 1 - count] == tokens[-1 - count]:
        count += 1
    return count


def slow_find(tokens: list[int], match: int, longest: int) -> Match | None:
    """The longest agreement with any earlier place, the latest of those: the obviously right model."""
    found = [Match(end, agreement(tokens, end, longest)) for end in range(match, len(tokens))]
    good = [place for place in found if place.length >= match]
    return max(good, key=lambda place: (place.length, place.end), default=None)


def propose(lookup: PromptLookup, tokens: list[int], most: int) -> list[int]:
    """What `most` tokens may follow `tokens`; none where their end occurred nowhere before."""
    found = lookup.find(tokens)
    return [] if found is None else continuation(tokens, found.end, most)


tokens_like = st.lists(st.integers(0, 3), max_size=60)


@settings(max_examples=300, deadline=None)
@given(tokens_like, st.integers(1, 4))
def test_it_finds_the_longest_and_the_latest_of_those(tokens: list[int], match: int) -> None:
    lookup = PromptLookup(match, candidates=100, longest=64)
    assert lookup.find(tokens) == slow_find(tokens, match, 64)


@settings(max_examples=300, deadline=None)
@given(tokens_like, st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=12), st.integers(1, 4))
def test_appended_tokens_are_taken_in_as_they_come(start: list[int], parts: list[list[int]], match: int) -> None:
    lookup, tokens = PromptLookup(match, candidates=200, longest=128), list(start)
    for part in parts:
        tokens += part
        assert lookup.find(tokens) == slow_find(tokens, match, 128)


@settings(max_examples=200, deadline=None)
@given(tokens_like, st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_few_candidates_find_something_right_if_there_is_anything(
    start: list[int], more: list[int], match: int
) -> None:
    lookup, tokens = PromptLookup(match, candidates=2, longest=6), list(start)
    for token in more:
        tokens.append(token)
        found, model = lookup.find(tokens), slow_find(tokens, match, 6)
        assert (found is None) == (model is None)
        if found is not None and model is not None:
            assert match <= found.length == agreement(tokens, found.end, found.length)
            latest = [end for end in range(match, len(tokens)) if agreement(tokens, end, match) == match][-2:]
            assert found.length >= max(agreement(tokens, end, 6) for end in latest)


@settings(max_examples=100, deadline=None)
@given(tokens_like, tokens_like, st.integers(1, 4))
def test_another_list_is_indexed_anew(first: list[int], second: list[int], match: int) -> None:
    lookup = PromptLookup(match, candidates=100, longest=64)
    lookup.find(first)
    assert lookup.find(second) == slow_find(second, match, 64)
    del second[: len(second) // 2 + 1]
    assert lookup.find(second) == slow_find(second, match, 64)


def test_a_place_that_is_followed_is_not_lost_behind_many_later_ones() -> None:
    lookup = PromptLookup(2, candidates=2, longest=4)
    story = [1, 2, 3, 4, 5, 6, 7, 8]
    tokens = [*story, *[6, 7, 90] * 5, *story[:4]]
    assert lookup.find(tokens) == Match(4, 4)
    for token in story[4:7]:
        tokens.append(token)
        found = lookup.find(tokens)
        assert found is not None
        assert tokens[found.end] == token + 1
    assert PromptLookup(2, candidates=2, longest=4).find(tokens) == Match(len(story) + 14, 2)  # without following


def test_guesses_are_what_came_after_and_a_repetition_goes_on() -> None:
    lookup = PromptLookup(3)
    assert propose(lookup, [1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == [4, 5]
    assert propose(lookup, [7, 1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]
    assert propose(lookup, [5, 5, 5, 5], 3) == [5, 5, 5]
    assert propose(lookup, [1, 2, 3, 4], 3) == []
    assert propose(lookup, [], 3) == []
    assert continuation([1, 2, 3], 1, 0) == []


def test_numbers_with_the_same_hash_are_no_match() -> None:
    assert hash((-1,)) == hash((-2,))
    assert PromptLookup(1).find([-1, 7, -2]) is None
    assert PromptLookup(1).find([-2, 7, -1, 8, -2]) == Match(1, 1)


def realigned(source: list[int], copy: list[int]) -> list[Match | None]:
    """What is supposed where nothing is found, after each token of `copy`, which follows `source`."""
    lookup, tokens, supposed = PromptLookup(3), [*source], []
    for token in copy:
        tokens.append(token)
        supposed.append(None if lookup.find(tokens) else lookup.realigned(tokens))
    return supposed


def test_an_edited_copy_goes_on_behind_what_was_replaced() -> None:
    source = list(range(100, 120))
    supposed = realigned(source, [*source[:8], 7, *source[9:]])
    # Three tokens of the copy find their place; with the one that was replaced it is lost until there are three again.
    assert supposed[:8] == [None] * 8
    assert supposed[8:11] == [Match(9, 0), Match(10, 0), Match(11, 0)]
    assert supposed[11:] == [None] * 9


def test_what_goes_on_otherwise_is_given_up() -> None:
    source = list(range(100, 120))
    assert realigned(source, [*source[:8], *range(10)])[8:] == [Match(9, 0), Match(10, 0), Match(11, 0), *[None] * 7]


def test_nothing_is_supposed_before_anything_was_found() -> None:
    assert realigned(list(range(100, 120)), [1, 2, 3, 4]) == [None] * 4


def test_a_place_at_the_end_has_nothing_to_go_on_with() -> None:
    lookup, tokens = PromptLookup(1), [5, 6, 5]
    assert lookup.find(tokens) == Match(1, 1)
    tokens.append(9)
    assert lookup.find(tokens) is None
    assert lookup.realigned(tokens) == Match(2, 0)


@settings(max_examples=200, deadline=None)
@given(tokens_like, st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_what_is_supposed_has_something_behind_it(start: list[int], more: list[int], match: int) -> None:
    lookup, tokens = PromptLookup(match), list(start)
    for token in more:
        tokens.append(token)
        if lookup.find(tokens) is None and (place := lookup.realigned(tokens)) is not None:
            assert 0 < place.end < len(tokens)
            assert continuation(tokens, place.end, 3)
