"""GBNF: everything that llama.cpp's grammars may have, and exactly their sentences."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infs.chat.constraints import compile_constraint
from infs.chat.gbnf import Chars, Choice, Node, Repeat, Sequence, Token, Use, parse_gbnf
from infs.chat.gbnf_lark import lark_from_gbnf
from infs.errors import InvalidRequest, Unsupported
from infs.types import GrammarConstraint
from tests.chat.matching import accepts, byte_tokenizer
from tests.chat.writing import ValueMatcher


def gbnf(text: str) -> str | None:
    return compile_constraint(GrammarConstraint(grammar=text))


JSON = r"""
# Values may be nested.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""

CASES = [
    # texts and their escapes
    ('root ::= "a\\tb\\n\\r\\\\\\"\\x41\\u00e9\\U0001F600"', ['a\tb\n\r\\"Aé😀'], ["a"]),
    ('root ::= "äöü / \\x2f"', ["äöü / /"], ["äöü"]),
    ('root ::= ""', [""], ["a"]),
    ('root ::= "a" "" "b"', ["ab"], ["a"]),
    ('root ::= "(?:a.b)*"', ["(?:a.b)*"], ["", "aab"]),
    # sets of characters
    ("root ::= [a-cx]", ["a", "c", "x"], ["d", "ab", ""]),
    ("root ::= [^a-c\\n]", ["d", "é", "😀"], ["a", "\n", ""]),
    ("root ::= [\\x41-\\x43\\u00e9-\\u00eb\\U0001F600]", ["B", "ê", "😀"], ["D", "ì"]),
    ("root ::= [\\]\\[\\\\/&~-]+", ["][\\/&&~~--"], ["a"]),
    ("root ::= [a-]", ["a", "-"], ["b"]),
    ("root ::= [-a]", ["a", "-"], ["b"]),
    ("root ::= [a^]", ["a", "^"], ["b"]),
    ("root ::= [^]", ["a", "\n"], [""]),
    ("root ::= [あ-ん]+", ["いろは"], ["イ"]),
    ("root ::= .", ["a", "\n", "é", "😀"], ["", "ab"]),
    # repetitions
    ('root ::= "a"*', ["", "aaa"], ["b"]),
    ('root ::= "a"+', ["a", "aaa"], [""]),
    ('root ::= "a"?', ["", "a"], ["aa"]),
    ('root ::= "ab"{2}', ["abab"], ["ab", "ababab", "abb"]),
    ('root ::= "a"{2,}', ["aa", "aaaa"], ["a"]),
    ('root ::= "a"{1,3}', ["a", "aaa"], ["", "aaaa"]),
    ('root ::= "a"{ 1 , 3 }', ["a", "aaa"], ["", "aaaa"]),
    ('root ::= "a"{0}"b"', ["b"], ["ab"]),
    ('root ::= ("a" | "b"){2}', ["ab", "ba"], ["a", "abab"]),
    ('root ::= "a" {2} +', ["aa", "aaaa"], ["aaa"]),
    ('root ::= ("" | "a")*', ["", "aa"], ["b"]),
    # alternatives, groups, lines and comments
    ('root ::= "a" | "b" |', ["a", "b", ""], ["ab"]),
    ('root ::= ("a" | )"b"', ["ab", "b"], ["a"]),
    ('root ::= (("a" | ("b" "c"))+ "d")?', ["", "abcad"], ["d", "ab"]),
    ('root ::= "a" |\n  # one more\n  "b"\n', ["a", "b"], ["c"]),
    ('root ::= (\n "a" # first\n | "b"\n)\n', ["a", "b"], ["c"]),
    ('# before\n\nroot ::= x # beside\n\n\tx ::= "a" # after', ["a"], ["b"]),
    ('root ::= x\r\nx ::= "a"\r\n', ["a"], ["b"]),
    ('root::="#"', ["#"], [""]),
    ('root ::=\n  "a"', ["a"], ["b"]),
    # rules
    ('x ::= "x"\nroot ::= x "a"', ["xa"], ["x"]),
    ('root ::= start | Start | START\nstart ::= "a"\nStart ::= "b"\nSTART ::= "c"', ["a", "b", "c"], ["d"]),
    ('root ::= a-b | a_b | a--b\na-b ::= "1"\na_b ::= "2"\na--b ::= "3"', ["1", "2", "3"], ["4"]),
    ('root ::= 1 2b\n1 ::= "1"\n2b ::= "2"', ["12"], ["1"]),
    ('root ::= "a"\nroot ::= "b"', ["b"], ["a"]),
    ('root ::= "a"\nunused ::= unused', ["a"], [""]),
    ('root ::= "(" root? ")"', ["()", "(())"], ["(", "(()"]),
    ('root ::= root "a" | "b"', ["b", "baa"], ["a", "ab"]),
    # one character may belong to two rules, and the longest one need not be the right one
    ('root ::= [a-z]* "b"', ["b", "abb"], ["a"]),
    ('root ::= "ab" "x" | "a" "by"', ["abx", "aby"], ["ab"]),
    ('root ::= "(" root ")" | word "b"\nword ::= [a-z]*', ["b", "(abb)"], ["(a)"]),
    ('root ::= "(" root ")" | one | two\none ::= "ab" "x"\ntwo ::= "a" "by"', ["(abx)", "aby"], ["(ab)"]),
    (JSON, ['{"a": [1, -2.5e3, "x\\n\\u00e9", {}]}', "{}", '{\n  "a":true}'], ["[]", "{", '{"a":01}', '{"a"  :1}']),
]  # fmt: skip


@pytest.mark.parametrize(("text", "good", "bad"), CASES)
def test_sentences(text: str, good: list[str], bad: list[str]) -> None:
    grammar = gbnf(text)
    assert [sentence for sentence in good if not accepts(grammar, sentence)] == []
    assert [sentence for sentence in bad if accepts(grammar, sentence)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rule 'root'"),
        ('a ::= "a"', "no rule 'root'"),
        ("root ::= a b\na ::= c", "'root' uses the rule 'b'"),
        ('\nroot ::= "a', "line 2: a text is not closed"),
        ("root ::= [a", "line 1: a set of characters is not closed"),
        ("root ::= []", "line 1: [] holds no character"),
        ("root ::= [^\\x00-\\U0010FFFF]", "holds no character"),
        ("root ::= [b-a]", "line 1: the range 'b-a' ends before it begins"),
        ('root ::= "\\q"', "line 1: '\\q' is no escape"),
        ('root ::= "\\x4"', "line 1: '\\x' is no escape"),
        ('root ::= "\\ud800"', "line 1: '\\ud800' is no character"),
        ('root ::= ("a"', "line 1: expected ')', found the end"),
        ('root ::= "a")', "line 1: expected the end of the line, found ')'"),
        ('root ::= "a"\n | "b"', "line 2: expected the name of a rule, found '| \"b\"'"),
        ('root = "a"', "line 1: expected '::=', found '= \"a\"'"),
        ('root ::= "a"{2', "line 1: expected a repetition"),
        ('root ::= "a"{,2}', "line 1: expected a repetition"),
        ('root ::= "a"{3,2}', "line 1: {3,2} ends before it begins"),
        ("root ::= * ", "line 1: expected the end of the line, found '* '"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deeply"),
        ("root ::= " + "(" * 150 + '"a"' + ")+" * 150, ""),
    ],
)
def test_errors_say_line_or_rule(text: str, said: str) -> None:
    if not said:
        assert accepts(gbnf(text), "aa")
        return
    with pytest.raises(InvalidRequest) as caught:
        gbnf(text)
    assert said in caught.value.message
    assert caught.value.param == "grammar"
    assert len(caught.value.message) < 200


def test_tokens_may_be_named() -> None:
    controls = ("<think>", "</think>")
    grammar = gbnf("root ::= <think> [^<]* </think> answer\nanswer ::= <[97]> !<[98]>")
    assert accepts(grammar, "<think>well</think>ac", controls)
    assert not accepts(grammar, "<think>well</think>ab", controls)
    assert not accepts(grammar, "<think>well</think>bc", controls)


def test_tokens_that_are_not_there_are_refused() -> None:
    constraint = GrammarConstraint(grammar="root ::= <missing>")
    with pytest.raises(InvalidRequest, match="missing"):
        compile_constraint(constraint, tokenizer=byte_tokenizer())


def test_any_token_but_a_named_one_is_refused_with_its_name() -> None:
    with pytest.raises(Unsupported, match="'!<think>' in line 2"):
        gbnf('root ::= "a" |\n !<think>')


def test_rules_without_recursion_are_terminals_where_that_changes_nothing() -> None:
    assert "R_STRING_4: " in lark_from_gbnf(JSON)
    careful = lark_from_gbnf('root ::= "(" root ")" | word "b"\nword ::= [a-z]*')
    assert "r_word_1: " in careful


# --- against a plain recogniser -----------------------------------------------------------------------------------

SENTENCES = ["".join(chars) for size in range(5) for chars in itertools.product("ab", repeat=size)]
TEXTS = st.text("ab", max_size=3).map(lambda text: f'"{text}"')
TIMES = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,3}"])
ITEMS = st.recursive(
    TEXTS | st.sampled_from(["[ab]", "[^a]", ".", "x", "y", "root"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: f"({' | '.join(options)})"),
        st.tuples(inner, TIMES).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=6,
)  # fmt: skip


def ends(rules: dict[str, Node], text: str) -> set[int]:
    """Where sentences of `rules` may end in `text`, by trying everything; each use of a rule costs some depth."""

    @cache
    def after(node: Node, at: int, depth: int) -> frozenset[int]:
        match node:
            case Chars():
                found = at < len(text) and any(first <= ord(text[at]) <= last for first, last in node.ranges)
                return frozenset((at + 1,)) if found else frozenset()
            case Use():
                return after(rules[node.rule], at, depth - 1) if depth else frozenset()
            case Choice():
                return frozenset().union(*(after(option, at, depth) for option in node.options))
            case Sequence():
                return along(node.items, at, depth)
            case Repeat():
                most = len(text) + node.least if node.most is None else node.most
                optional = [Choice((node.item, Sequence(())))] * (most - node.least)
                return along((*[node.item] * node.least, *optional), at, depth)
            case Token():
                raise AssertionError

    def along(items: tuple[Node, ...], at: int, depth: int) -> frozenset[int]:
        found = frozenset((at,))
        for item in items:
            found = frozenset().union(*(after(item, place, depth) for place in found))
        return found

    return set(after(Use("root"), 0, 3 * len(text) + 6))


@settings(max_examples=60, deadline=None)
@given(ITEMS, ITEMS, ITEMS)
def test_any_grammar_has_exactly_its_sentences(root: str, x: str, y: str) -> None:
    text = f"root ::= {root}\nx ::= {x}\ny ::= {y}"
    rules = parse_gbnf(text)
    expected = [sentence for sentence in SENTENCES if len(sentence) in ends(rules, sentence)]
    if not expected:
        return  # what never comes to an end is another matter
    grammar = gbnf(text)
    assert grammar is not None
    matcher = ValueMatcher(grammar)
    assert [sentence for sentence in SENTENCES if matcher.accepts_text(sentence)] == expected
