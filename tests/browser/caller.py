"""An application at the gateway, with the stock OpenAI SDK."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai

from tests.end_to_end.stack import Stack

PROMPT = "support-answer"
QUESTION = "Where is my parcel?"
AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer's headers say about who made it."""

    release: int
    prompt: str
    cohort: str
    text: str


class Caller:
    """A tenant's application. `key`: its API key."""

    def __init__(self, stack: Stack, key: str = "bk-demo-globex") -> None:
        self._client = openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key=key, max_retries=0, timeout=60)

    def ask(self, user: str, *, question: str = QUESTION, key: str = "") -> Answer:
        """Ask as `user` of the application, through the managed prompt, on a connection of its own; with an idempotency
        key if there is one.

        A connection of its own, so that every gateway process comes to answer.
        """
        raw = self._client.chat.completions.with_raw_response.create(
            model="chat",
            messages=[],
            user=user,
            extra_body={"prompt": {"id": PROMPT, "variables": {"question": question}}},
            extra_headers={"connection": "close", **({"idempotency-key": key} if key else {})},
        )
        headers = raw.headers
        text = raw.parse().choices[0].message.content or ""
        return Answer(int(headers["ballast-release"]), headers["ballast-prompt"], headers["ballast-cohort"], text)

    def hand_in(self, question: str = QUESTION) -> str:
        """Hand a question in as a job; its id."""
        body = {"model": "chat", "messages": [{"role": "user", "content": question}]}
        handed_in = {"endpoint": "/v1/chat/completions", "body": body}
        job: dict[str, Any] = self._client.post("/jobs", body=handed_in, cast_to=object)  # type: ignore[assignment]
        return str(job["id"])

    def look(self, job: str) -> dict[str, Any]:
        """A job as its tenant is told of it."""
        found: dict[str, Any] = self._client.get(f"/jobs/{job}", cast_to=object)  # type: ignore[assignment]
        return found

    def ask_as_each(self, users: Sequence[str]) -> dict[str, Answer]:
        """Ask as every one of `users`, several at a time, as an application does."""
        with ThreadPoolExecutor(max_workers=AT_A_TIME) as pool:
            return dict(zip(users, pool.map(self.ask, users), strict=True))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
