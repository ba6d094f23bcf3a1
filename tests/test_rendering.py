"""Chat templates that never end, fill the memory or fail: an error of ours, in time. Ordinary ones are as transformers has them."""

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE, make_tokenizer
from jinja2.exceptions import TemplateError

import steerlens as sl
from steerlens.text import rendering as _rendering
from steerlens.text.rendering import rendered

ASKED = [{"role": "user", "content": "Why?"}]


def tokenizer(template: Any) -> Any:
    made = make_tokenizer("chat")
    made.chat_template = template
    return made


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}%%{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        (LOOP.replace("%%", ""), "takes over"),
        (LOOP.replace("%%", "{% if i > j %}{% endif %}"), "takes over"),
        (LOOP.replace("%%", "much and more of it"), "takes over"),
        ("{{ lipsum(n=9999999) }}", "takes over"),
        ("{{ 'a' * 10**11 }}", "power"),
        ("{{ 9 ** 9 ** 9 }}", "power"),
        ("{{ 'a' * 100000000000 }}", "MemoryError"),
        ("{{ '%99999999999d' % 1 }}", "fails"),
        ("{{ 'a'.center(99999999999) }}", "fails"),
        (
            "{% set x = namespace(a='a') %}{% for i in range(60) %}{% set x.a = x.a + x.a %}{% endfor %}",
            "MemoryError|takes over",
        ),
        ("{{ 'a' * 2000000 }}", "characters"),
        ("{% for i in range(9000) %}{{ 'a' * 1000 }}{% endfor %}", "characters|takes over"),
        ({"default": "{{ 2 ** 3 }}"}, "power"),
    ],
)
def test_a_template_that_does_harm_is_refused(template: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(tokenizer(CHAT_TEMPLATE), ASKED, open_response=True)  # what is imported first is not what is timed
    monkeypatch.setattr(_rendering, "SECONDS", 0.5)
    with pytest.raises(sl.PairsError, match=says) as told:
        rendered(tokenizer(template), ASKED, open_response=True)
    assert "template='plain'" in str(told.value)


def test_what_a_template_refuses_is_told_as_jinja_tells_it() -> None:
    for template in (
        "{{ raise_exception('no') }}",
        "{% if %}",
        "{{ messages.no.thing }}",
        "{{ ''.__class__.__mro__ }}",
    ):
        with pytest.raises(TemplateError):
            rendered(tokenizer(template), ASKED, open_response=True)


def test_pairs_of_a_model_with_such_a_template_are_refused(tiny_chat_model: Any) -> None:
    model = SimpleNamespace(tokenizer=tokenizer("{{ 1 / 0 }}"), cfg=tiny_chat_model.cfg)
    with pytest.raises(sl.PairsError, match="ZeroDivisionError"):
        sl.PreferencePairs(["a"], ["b"], ["c"]).encode(model)  # type: ignore[arg-type]


def test_an_ordinary_template_is_rendered_as_it_was() -> None:
    for template in (CHAT_TEMPLATE, "**{{ messages[0]['content'] * 2 }}** {# 2 ** 3 #}"):
        made = tokenizer(template)
        want = made.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
        for _ in range(2):
            assert rendered(made, ASKED, open_response=True) == want
