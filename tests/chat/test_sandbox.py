"""Templates that are wrong, or mean harm."""

from __future__ import annotations

import pytest

from infs.chat.template import ChatTemplate
from infs.errors import InvalidRequest, LoadFailed, Unsupported
from tests.chat.shapes import chat, say

REQUEST = chat(say("user", "hello"))


@pytest.mark.parametrize(
    ("source", "line"), [("{% if %}", 1), ("a\nb\n{{ x", 3), ("\n{% endfor %}", 2), ("\n\n{{ x | nofilter }}", 3)]
)
def test_broken_templates_are_refused_with_the_line(source: str, line: int) -> None:
    with pytest.raises(LoadFailed, match=f"line {line}"):
        ChatTemplate(source)


def test_templates_nested_beyond_measure_are_refused() -> None:
    with pytest.raises(LoadFailed):
        ChatTemplate("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}{{ messages[0].content }}",
        "{{ ''['__class__'].mro() }}{{ messages[0].content }}",
        "{{ raise_exception.__globals__ }}{{ messages[0].content }}",
        "{{ strftime_now.__globals__['json'] }}{{ messages[0].content }}",
        "{{ messages.append(1) }}{{ messages[0].content }}",
        "{{ messages[0].update({'content': 'x'}) }}{{ messages[0].content }}",
        "{{ '%s' | attr('__class__') }}{{ '{0.__class__}'.format('') }}{{ messages[0].content }}",
        "{% include 'other' %}{{ messages[0].content }}",
        "{{ lipsum(n=1000000) }}{{ messages[0].content }}",
    ],
)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    """Such a template is refused, or gets nothing for it; the message itself stays as it is."""
    try:
        prompt = ChatTemplate(source).render(REQUEST)
    except InvalidRequest:
        return
    assert prompt == "hello"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endmacro %}"
        "{{ f() }}",
        "{% for i in range(90000) %}{{ 'x' * 100000 }}{% endfor %}",
    ],
)
def test_endless_templates_are_stopped(source: str) -> None:
    with pytest.raises(Unsupported, match="chat template"):
        ChatTemplate(source).render(REQUEST)


@pytest.mark.parametrize(
    "expression", ["range(1000000000)", "'x' * 10000000000", "[1] * 10000000000", "9 ** 99999999", "10000000000 * 'x'"]
)
def test_single_huge_values_are_refused(expression: str) -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate("{% set x = " + expression + " %}{{ messages[0].content }}").render(REQUEST)


def test_recursion_ends() -> None:
    source = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"
    with pytest.raises(InvalidRequest, match="recursion"):
        ChatTemplate(source).render(REQUEST)


def test_loops_work_as_ever() -> None:
    source = (
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ m.content }}"
        "{% else %}none{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% for x in [[1], [2]] recursive %}{{ loop(x) if x is sequence else x }}{% endfor %}"
    )
    assert ChatTemplate(source).render(REQUEST) == "1/1Truehelloa10212"


def test_what_templates_of_the_transformers_library_rely_on() -> None:
    source = (
        "{% generation %}{{ messages[0].content }}{% endgeneration %}"
        "{{ {'é': '<&>'} | tojson }}{{ [1] | tojson(indent=2) }}{{ strftime_now('%Y') | length }}"
    )
    assert ChatTemplate(source).render(REQUEST) == 'hello{"é": "<&>"}[\n  1\n]4'
