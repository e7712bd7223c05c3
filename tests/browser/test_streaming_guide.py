"""The guide's JavaScript, as it stands, in a browser on a page of nobody's: it reads a stream by its cursor alone."""

import re
from pathlib import Path

import openai
from playwright.sync_api import Browser

from tests.end_to_end.stack import Stack

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "streaming.md"
QUESTION = "Where is my parcel? [[fault slow_drip:ms=30]]"


def test_a_page_from_anywhere_reads_on_by_the_cursor(stack: Stack, chromium: Browser) -> None:
    """The server asked and hung up after three events; the page has every word, the first three's included."""
    [code] = re.findall(r"^```js\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    with openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key="bk-demo-globex", timeout=60) as client:
        asked = client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        first = [next(asked) for _ in range(3)]
        headers = asked.response.headers
        asked.close()
    page = chromium.new_page()

    text, last = page.evaluate(
        "([gateway, stream, cursor]) => {" + code + "return new Promise((resolve) => {"
        "const wait = setInterval(() => {"
        "if (source.readyState === EventSource.CLOSED) { clearInterval(wait); resolve([text, have]); }"
        "}, 20); }); }",
        [stack.gateway_url, headers["ballast-stream-id"], headers["ballast-resume-cursor"]],
    )

    page.close()
    assert text.startswith("".join(chunk.choices[0].delta.content or "" for chunk in first))
    assert len(text) > 40
    assert last > 3
