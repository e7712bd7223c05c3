"""Azure OpenAI: OpenAI's JSON behind other addresses and another header.

`base_url` is the resource (`https://<name>.openai.azure.com`) and a lane's upstream model is the deployment. A dated
`api_version` uses the classic address (`/openai/deployments/<deployment>/...?api-version=...`), `v1` the one without
versions, where the deployment travels in the body.
"""

from __future__ import annotations

from urllib.parse import quote

import orjson

from dataplane.fields import AZURE
from dataplane.messages import ChatRequest, EmbeddingRequest
from dataplane.providers.base import UpstreamCall
from dataplane.providers.openai import CONTENT_TYPE, OpenAIAdapter, chat_body
from dataplane.routing import Account, Lane


class AzureOpenAIAdapter(OpenAIAdapter):
    """The adapter for Azure OpenAI; answers and streams are read as OpenAI's."""

    def chat_call(self, request: ChatRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        body, dropped, adjusted = chat_body(request, lane=lane, wire=AZURE)
        return UpstreamCall(
            url=_address("chat/completions", lane=lane, account=account),
            headers=(("api-key", secret), CONTENT_TYPE),
            body=orjson.dumps(body),
            dropped=dropped,
            adjusted=adjusted,
        )

    def embedding_call(self, request: EmbeddingRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        return UpstreamCall(
            url=_address("embeddings", lane=lane, account=account),
            headers=(("api-key", secret), CONTENT_TYPE),
            body=orjson.dumps({"model": lane.upstream_model, "input": request.input, **request.parameters}),
        )


def _address(operation: str, *, lane: Lane, account: Account) -> str:
    version = account.api_version
    if version is None or version == "v1":
        return f"{account.base_url}/openai/v1/{operation}"
    deployment = quote(lane.upstream_model, safe="")
    return f"{account.base_url}/openai/deployments/{deployment}/{operation}?api-version={quote(version, safe='')}"
