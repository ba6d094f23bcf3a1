"""Requests to an endpoint that speaks OpenAI's chat protocol: at once, again where they fail, and kept as they come."""

import base64
import importlib.util
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from tqdm.auto import tqdm

from steerlens.errors import MeasureError
from steerlens.results.ledger import Ledger

Chat = Sequence[Mapping[str, str]]
LONGEST_PAUSE = 120.0
"""seconds; an endpoint that asks to be left alone for longer is not asked again"""
LONGEST_REPLY = 10_000
"""characters that are kept of a reply; a score has a dozen"""
RECORD: Mapping[str, type] = {"reply": str, "refused": bool, "input_tokens": int, "output_tokens": int}
"""what the cache holds of each reply"""
_SHORTEST_SECRET = 4


class _Rubbish(Exception):  # noqa: N818 - never leaves this module
    """A reply that is no chat completion."""


@dataclass(frozen=True)
class Connection:
    """How a language model is asked; the key is not among it."""

    model: str
    base_url: str | None = field(default=None, repr=False)
    key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    max_tokens: int | None = 16
    concurrency: int = 8
    timeout: float = 60.0
    """seconds for one request"""
    retries: int = 5
    progress: bool = True

    def __post_init__(self) -> None:
        check_installed()
        if self.base_url is not None:
            split_url(self.base_url)


def check_installed() -> None:
    """Raise MeasureError unless the package openai is there."""
    if importlib.util.find_spec("openai") is None:
        raise MeasureError("a language model as a judge needs the package openai: pip install 'steerlens[judge]'")


def split_url(url: object) -> tuple[str, list[str]]:
    """An endpoint's address as it may be shown, and the secrets in it: its user's name and password, and its query's values.

    Raises:
        MeasureError: it is no http or https address; says so without showing it.
    """
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or not isinstance(url, str) or not url.isprintable() or " " in url:
        raise MeasureError("base_url= is no address; expected one such as 'http://localhost:8000/v1'")
    host = parts.netloc.rpartition("@")[2]
    secrets = [value for _, value in parse_qsl(parts.query)]
    if "@" in parts.netloc:
        user = parts.netloc.rpartition("@")[0]
        plain = unquote(user)
        secrets += [user, plain, *user.split(":", 1)[1:], *plain.split(":", 1)[1:]]
        secrets.append(base64.b64encode(plain.encode()).decode())
    return urlunsplit((parts.scheme, host, parts.path, "", "")), secrets


class Endpoint:
    """Where the requests go, with the key from the environment. Neither the key nor a password is written or told anywhere.

    Raises:
        MeasureError: there is no key, and OpenAI's own endpoint takes none without; or it is no key.
    """

    def __init__(self, asked: Connection) -> None:
        check_installed()
        self.asked = asked
        base_url = asked.base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get(asked.key_variable)
        if not key and base_url is None:
            raise MeasureError(
                f"the environment variable {asked.key_variable} is not set: put your key there, or give base_url= for an endpoint "
                "that takes none"
            )
        if key and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise MeasureError(f"the environment variable {asked.key_variable} holds something that is no key")
        self._url, self._key = base_url or "https://api.openai.com/v1", key or ""
        self.base_url, secrets = split_url(self._url)
        found = {form for secret in [self._key, *secrets] for form in (secret, quote(secret, safe=""))}
        self._secrets = sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._stop = threading.Event()

    def ask(self, chats: Mapping[str, Chat], ledger: Ledger, *, gives_up: int) -> dict[str, str]:
        """Put the replies into the ledger, each at once; returns the errors of the requests that got none.

        Raises:
            MeasureError: the endpoint refuses the key, knows no such model, or `gives_up` requests one after the other failed.
        """
        import openai

        failed: dict[str, str] = {}
        in_a_row = 0
        pool = ThreadPoolExecutor(self.asked.concurrency, thread_name_prefix="judge")
        # Not the client's own retries: their pauses can't be interrupted.
        with openai.OpenAI(
            api_key=self._key or "none", base_url=self._url, timeout=self.asked.timeout, max_retries=0
        ) as client:
            bar = tqdm(total=len(chats), desc="judging", unit="answer", disable=not self.asked.progress, leave=False)
            try:
                futures = {pool.submit(self._ask, client, key, chat, ledger): key for key, chat in chats.items()}
                for future in as_completed(futures):
                    bar.update()
                    try:
                        future.result()
                        in_a_row = 0
                    except MeasureError:  # the cache can't be written
                        raise
                    except (_Rubbish, Exception) as error:  # openai's, and what a reply makes of it
                        in_a_row += 1
                        hopeless = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
                        if isinstance(error, hopeless) or in_a_row >= gives_up:
                            raise MeasureError(self._useless(self._told(error))) from None
                        failed[futures[future]] = self._told(error)
            finally:
                # What is on its way may have been paid for: wait for it and keep it, and ask for nothing more.
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                bar.close()
        return failed

    def _ask(self, client: Any, key: str, chat: Chat, ledger: Ledger) -> None:
        completion = self._patiently(client, chat)
        try:
            choice = completion.choices[0]
            words, refusal = choice.message.content, getattr(choice.message, "refusal", None)
            filtered = choice.finish_reason == "content_filter"
        except (AttributeError, TypeError, LookupError) as error:
            raise _Rubbish(f"the reply is no chat completion: {completion!r:.5000}") from error
        usage = getattr(completion, "usage", None)
        record = {
            "judge": self.asked.model,
            "reply": self._redacted(str(refusal or words or ""))[:LONGEST_REPLY],
            "refused": bool(refusal) or filtered,
            "input_tokens": _count(getattr(usage, "prompt_tokens", 0)),
            "output_tokens": _count(getattr(usage, "completion_tokens", 0)),
        }
        ledger.add({key: record})

    def _patiently(self, client: Any, chat: Chat) -> Any:
        """One request, and again after failures that pass."""
        import openai

        options = {"temperature": self.asked.temperature, "max_tokens": self.asked.max_tokens}
        given = {name: value for name, value in options.items() if value is not None}
        attempt = 0
        while True:
            try:
                return client.chat.completions.create(model=self.asked.model, messages=chat, **given)
            except ValueError as error:  # no JSON
                raise _Rubbish(f"the reply is no chat completion ({error})") from error
            except openai.APIError as error:
                status = getattr(error, "status_code", None)
                passes = (
                    isinstance(error, openai.APIConnectionError) or status in (408, 409, 429) or (status or 0) >= 500
                )
                pause = _pause(getattr(error, "response", None), attempt)
                if attempt == self.asked.retries or not passes or pause > LONGEST_PAUSE or self._stop.wait(pause):
                    raise
            attempt += 1

    def _told(self, error: BaseException) -> str:
        return self._redacted(f"{type(error).__name__.lstrip('_')}: {error}")[:500]

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _useless(self, text: str) -> str:
        return (
            f"the judge {self.asked.model!r} at {self.base_url} doesn't work: {text}. Look at model=, base_url= and the "
            f"environment variable {self.asked.key_variable}; temperature=None and max_tokens=None leave out options that some "
            "models refuse. What was paid for is kept where cache= names a file: call again to go on"
        )


def _count(tokens: object) -> int:
    """A number of tokens as an endpoint tells it; 0 for anything else."""
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**53 else 0


def _pause(response: Any, attempt: int) -> float:
    """Seconds until the next attempt: what Retry-After says, else twice as long each time, less up to a quarter."""
    said = None if response is None else response.headers.get("retry-after")
    try:
        return max(0.0, float(said))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(said)).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return min(30.0, 0.5 * 2**attempt) * (1 - 0.25 * random.SystemRandom().random())
