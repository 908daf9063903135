"""Patterns of JSON Schema mean in a grammar what they mean in ECMA-262."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infs.chat.constraints import compile_constraint
from infs.chat.patterns import check_repetitions, rust_pattern
from infs.errors import InvalidRequest, Unsupported
from infs.types import JsonConstraint
from tests.chat.writing import ValueMatcher


def matcher(pattern: str) -> ValueMatcher:
    grammar = compile_constraint(JsonConstraint(schema={"type": "string", "pattern": pattern}))
    assert grammar is not None
    return ValueMatcher(grammar)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d\D\w\W$", ["1a_-"], ["١aa-", "1aé-x"]),
        (r"^\s\S$", ["\u00a0a", "\ufeffa", "\u2028a"], ["\u0085a", "a\ufeff"]),
        (r"^[\s\d]+$", ["1\ufeff2"], ["a"]),
        (r"^[^\s\d]+$", ["ab"], ["a1", "a\u3000"]),
        (r"^[\W]$", ["é", "-"], ["a", "_"]),
        ("^.$", ["a", "😀", "\u0085"], ["\n", "\r", "\u2028", "ab"]),
        (r"^[a&&b]+$", ["a&b"], ["c"]),
        (r"^[+--]+$", ["+,-"], ["."]),
        (r"^[a~~b]+$", ["a~b"], ["c"]),
        (r"^[[a]+$", ["[a"], ["]"]),
        (r"^[\w-x]+$", ["a-x"], ["+"]),
        (r"^[^]$", ["\n", "a"], ["", "ab"]),
        (r"^(a|[])$", ["a"], ["", "[]"]),
        (r"^[\b]$", ["\b"], ["b"]),
        (r"^\cA\0\t\n\v\f\r$", ["\x01\x00\t\n\v\f\r"], ["A"]),
        (r"^\x41\u0042\u{43}\ud83d\ude00$", ["ABC😀"], ["ABC"]),
        (r"^\.\*\/\-\"\@\#$", ['.*/-"@#'], ["a"]),
        (r"^a{2}b{1,}c{0,1}$", ["aab", "aabbc"], ["ab", "aacc"]),
        ("^a{,2}$", ["a{,2}"], ["a", "aa"]),
        ("^x{$", ["x{"], ["x"]),
        ("^a+?b*?c??$", ["a", "aabc"], ["b"]),
        ("^(?:a)(?<name>b)(?P<other>c)$", ["abc"], ["ab"]),
        (r"^\p{L}\P{L}$", ["é1"], ["11"]),
        (r"^\p{Script=Greek}$", ["α"], ["a"]),
        ("a b # c", ["xa b # cx"], ["ab"]),
        ("^a|b$", ["ax", "xb"], ["xax"]),
        ("(^a|b$)", ["ax", "xb"], ["xax"]),
        ("^$", [""], ["a"]),
        ("", ["", "a"], []),
    ],
)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    found = matcher(pattern)
    assert [text for text in good if not found.accepts(text)] == []
    assert [text for text in bad if found.accepts(text)] == []


@pytest.mark.parametrize(
    ("pattern", "kind", "said"),
    [
        ("(?=a)", Unsupported, "looks ahead or behind"),
        ("(?!a)", Unsupported, "looks ahead or behind"),
        ("(?<=a)", Unsupported, "looks ahead or behind"),
        ("(?<!a)", Unsupported, "looks ahead or behind"),
        (r"\ba", Unsupported, "word boundary"),
        (r"a\B", Unsupported, "word boundary"),
        (r"(a)\1", Unsupported, "backreference"),
        (r"(?<n>a)\k<n>", Unsupported, "backreference"),
        ("(?i)a", Unsupported, "flags"),
        ("(?i:a)", Unsupported, "flags"),
        (r"\Aa\z", InvalidRequest, r"'\A', which means nothing"),
        ("\\", InvalidRequest, "means nothing"),
        ("[a", InvalidRequest, "not closed"),
        ("[b-a]", InvalidRequest, "ends before it begins"),
        (r"\ud800", InvalidRequest, "no character"),
        (r"\u{110000}", InvalidRequest, "no character"),
        ("(a{1000}){1000}", InvalidRequest, "repeats more often"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(pattern: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        rust_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(", ")", "a{2,1}", "*", r"\p{Nonsense}"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="pattern"):
        matcher(pattern)


def test_repetitions_that_are_only_shown_do_not_count() -> None:
    check_repetitions(r"\(a{1000}\){1000}[({9}]{20}(?:[)]{50}){50}x{20000}")


ATOMS = st.sampled_from(["a", "b", "c", ".", r"\d", r"\w", "[ab]", "[^a]", r"[\d-]", "-", r"\.", "1", "[b-c]"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "+?"])).map("(?:{0[0]}){0[1]}".format),
    ),
    max_leaves=6,
)
WHOLE = st.tuples(st.sampled_from(["", "^"]), PATTERNS, st.sampled_from(["", "$"])).map("".join)


@settings(max_examples=60, deadline=None)
@given(WHOLE, st.lists(st.text("abc1-.", max_size=5), max_size=8))
def test_any_pattern_matches_what_python_s_does(pattern: str, texts: list[str]) -> None:
    expected = re.compile(pattern, re.ASCII)
    found = matcher(pattern)
    assert [text for text in texts if found.accepts(text)] == [text for text in texts if expected.search(text)]
