"""Azure OpenAI's wire as its own client sees it."""

from __future__ import annotations

import openai
import pytest

DEPLOYMENT = "gpt-4o-instant"
REFUND = [{"role": "user", "content": "How do I get a refund?"}]


def test_plain_answer_carries_filter_results_and_azures_headers(azure_client):
    """Body and headers have what only Azure adds."""
    raw = azure_client.chat.completions.with_raw_response.create(model=DEPLOYMENT, messages=REFUND)

    completion = raw.parse()
    assert "refund" in completion.choices[0].message.content
    assert completion.prompt_filter_results[0]["content_filter_results"]["hate"]["severity"] == "safe"
    assert completion.choices[0].content_filter_results["violence"]["filtered"] is False
    assert raw.headers["x-ms-region"]
    assert len(raw.headers["apim-request-id"].split("-")) == 5


def test_stream_opens_with_the_prompts_filter_results(azure_client):
    """The first chunk has no choices; the rest adds up to the plain answer."""
    plain = azure_client.chat.completions.create(model=DEPLOYMENT, messages=REFUND)

    chunks = list(azure_client.chat.completions.create(model=DEPLOYMENT, messages=REFUND, stream=True))

    assert chunks[0].choices == []
    assert chunks[0].prompt_filter_results[0]["prompt_index"] == 0
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[1:])
    assert text == plain.choices[0].message.content


def test_content_filter_refuses_the_prompt_with_its_findings(azure_client):
    """The 400 names the policy and the category that was caught."""
    with pytest.raises(openai.BadRequestError) as caught:
        azure_client.chat.completions.create(
            model=DEPLOYMENT, messages=REFUND, extra_headers={"x-simulator-fault": "content_filter"}
        )

    inner = caught.value.body["innererror"]
    assert caught.value.code == "content_filter"
    assert inner["code"] == "ResponsibleAIPolicyViolation"
    assert inner["content_filter_result"]["violence"] == {"filtered": True, "severity": "medium"}


@pytest.mark.parametrize(
    ("key", "deployment", "error", "code"),
    [
        ("invalid", DEPLOYMENT, openai.AuthenticationError, "401"),
        ("k", "missing-deployment", openai.NotFoundError, "DeploymentNotFound"),
    ],
)
def test_platform_errors_are_azures(azure_client, key, deployment, error, code):
    """Azure's own envelope is a code and a message."""
    with pytest.raises(error) as caught:
        azure_client.with_options(api_key=key).chat.completions.create(model=deployment, messages=REFUND)

    assert caught.value.code == code


def test_api_version_is_required(http):
    """Without api-version the resource is not found, as at Azure."""
    path = f"/azure/openai/deployments/{DEPLOYMENT}/chat/completions"
    body = {"messages": REFUND}

    assert http.post(path, json=body, headers={"api-key": "k"}).status_code == 404
    assert http.post(f"{path}?api-version=2024-10-21", json=body, headers={"api-key": "k"}).status_code == 200


def test_embeddings_work_by_deployment(azure_client):
    """The deployment names the model."""
    answer = azure_client.embeddings.create(model="benchmark-embedding", input="refund", dimensions=16)

    assert len(answer.data[0].embedding) == 16
