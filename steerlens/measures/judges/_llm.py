"""A language model as a judge, through any endpoint that speaks OpenAI's chat protocol."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steerlens.checks.calls import checked, number, or_none, path, whole
from steerlens.checks.values import checked_list, checked_number, shown
from steerlens.errors import MeasureError
from steerlens.measures.judges._endpoint import RECORD, Connection, Endpoint
from steerlens.measures.judges._judge import Verdict
from steerlens.measures.judges._prompt import messages, read_reply
from steerlens.measures.judges._rubrics import Rubric, rubric_of
from steerlens.pairs.preference import PreferencePairs, check_pairs
from steerlens.results.ledger import Ledger, digest

GIVES_UP = 10
"""requests without a reply, one after the other, after which an endpoint is taken for dead"""


@dataclass(frozen=True)
class LLMJudge:
    """Grades by a rubric; made by `llm`. It holds no key: that is read from the environment when it is called."""

    connection: Connection
    rubric: Rubric
    examples: Mapping[str, tuple[str, str]] | None = field(default=None, repr=False)
    """by prompt: an answer of the highest score, and one of the lowest"""
    cache: Path | None = None
    prices: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """The rubric's name, and the judge's."""
        return f"{self.rubric.name}, judged by {self.connection.model}"

    @property
    def scale(self) -> tuple[float, float]:
        """The rubric's lowest and highest score."""
        return self.rubric.scale

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """The score of each answer; None where there is none (`verdicts` says why)."""
        return [verdict.score for verdict in self.verdicts(prompts, answers)]

    def verdicts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """The score of each answer with the judge's words and what it took.

        An empty answer is not sent. A request that fails (after `retries` more) leaves its answer without a score, and is
        tried again in the next call. What came back is in the cache at once, also when the call is interrupted.

        Raises:
            MeasureError: there is no key; the endpoint refuses it, knows no such model, or has not replied to ten requests one
                after the other; a prompt has no example.
        """
        endpoint = Endpoint(self.connection)
        asked = [
            messages(self.rubric, p, a, self._example(p)) if a.strip() else None
            for p, a in zip(prompts, answers, strict=True)
        ]
        keys = [None if chat is None else self._key(endpoint.base_url, chat) for chat in asked]
        ledger = Ledger(self.cache, "judgement", RECORD)
        chats = {key: chat for key, chat in zip(keys, asked, strict=True) if key is not None and chat is not None}
        todo = {key: chat for key, chat in chats.items() if key not in ledger}
        failed = endpoint.ask(todo, ledger, gives_up=min(GIVES_UP, len(chats))) if todo else {}
        unpaid = set(todo) - set(failed)
        return [self._verdict(key, ledger, failed, unpaid) for key in keys]

    def _example(self, prompt: str) -> tuple[str, str] | None:
        if self.examples is None:
            return None
        if prompt not in self.examples:
            raise MeasureError(
                f"examples= has no pair for the prompt {prompt!r:.80}; expected one for each, or leave examples= out"
            )
        return self.examples[prompt]

    def _key(self, base_url: str, chat: Sequence[Mapping[str, str]]) -> str:
        asked = self.connection
        return digest([base_url.rstrip("/"), asked.model, asked.temperature, asked.max_tokens, list(chat)])

    def _verdict(self, key: str | None, ledger: Ledger, failed: Mapping[str, str], unpaid: set[str]) -> Verdict:
        if key is None:
            return Verdict(None, "empty answer")
        if key in failed:
            return Verdict(None, "no reply", failed[key])
        record = ledger[key]
        score, reason = (None, "judge refused") if record["refused"] else read_reply(record["reply"], self.rubric)
        if key not in unpaid:
            return Verdict(score, reason, record["reply"])
        unpaid.remove(key)  # an answer that stands there twice was asked about once
        tokens = (record["input_tokens"], record["output_tokens"])
        price = math.nan if self.prices is None else sum(n * p for n, p in zip(tokens, self.prices, strict=True)) / 1e6
        return Verdict(score, reason, record["reply"], *tokens, price, paid=True)


@checked(
    MeasureError,
    "rubric",
    "base_url",
    "prices",
    cache=or_none(path),
    examples=lambda name, value, error: check_pairs(name, value),
    temperature=or_none(number(least=0)),
    max_tokens=or_none(whole()),
    concurrency=whole(),
    timeout=number(above=0),
    retries=whole(least=0),
)
def llm(
    *,
    model: str,
    rubric: str | Rubric,
    cache: str | Path | None,
    base_url: str | None = None,
    examples: PreferencePairs | None = None,
    key_variable: str = "OPENAI_API_KEY",
    temperature: float | None = 0.0,
    max_tokens: int | None = 16,
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 5,
    prices: tuple[float, float] | None = None,
    progress: bool = True,
) -> LLMJudge:
    """A language model that grades answers by a rubric, through OpenAI's chat protocol (OpenAI, vLLM, llama.cpp, Ollama, ...).

    Args:
        model: the endpoint's name for it.
        rubric: one of `sl.judges.RUBRICS`, scores 1 to 4, or your own `sl.judges.Rubric`.
        cache: a .jsonl file that every reply goes to at once, and is read from instead of being paid for again; None keeps none.
        base_url: the endpoint; default: OpenAI's, or the environment variable OPENAI_BASE_URL.
        examples: pairs whose chosen and rejected responses show the judge the highest and the lowest score for each prompt, as
            the BiPO paper does. Without, it goes by the rules alone.
        key_variable: the environment variable with the key; the key is nowhere else.
        temperature, max_tokens: of the judge's reply; None leaves the option out.
        concurrency: requests at once.
        timeout: seconds for one request.
        retries: further requests after a timeout, a lost connection, and the statuses 408, 409, 429 and 5xx, behind growing
            pauses with jitter, or when the endpoint's Retry-After says.
        prices: dollars for a million tokens of input and of output; the result then says what it cost.

    Raises:
        MeasureError: the package openai is missing, or an option makes no sense.

    Source:
        Cao et al. 2024, arXiv 2406.00045v2: GPT-4, 1 to 4, a rule for each score, the pair's answers as examples of 4 and 1.
    """
    connection = Connection(
        model, base_url, key_variable, temperature, max_tokens, concurrency, timeout, retries, progress
    )
    if prices is not None:
        prices = _checked_prices(prices)
    pairs = None if examples is None else {pair.prompt: (pair.chosen, pair.rejected) for pair in examples}
    return LLMJudge(connection, rubric_of(rubric), pairs, None if cache is None else Path(cache), prices)


def _checked_prices(prices: object) -> tuple[float, float]:
    try:
        paid_in, paid_out = (checked_number("prices", price) for price in checked_list("prices", prices, of="two"))
    except (MeasureError, ValueError):
        paid_in = paid_out = -1.0
    if min(paid_in, paid_out) < 0:
        raise MeasureError(
            f"prices={shown(prices)}; expected dollars for a million tokens of input and of output: (2.5, 10)"
        )
    return paid_in, paid_out
