"""One adapter per vendor wire, behind `base.Adapter`; `ADAPTERS` finds one by the wire that a release names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dataplane.providers.anthropic import AnthropicAdapter
from dataplane.providers.azure_openai import AzureOpenAIAdapter
from dataplane.providers.base import Adapter
from dataplane.providers.openai import OpenAIAdapter

ADAPTERS: Final[Mapping[str, Adapter]] = {
    "openai": OpenAIAdapter(),
    "azure-openai": AzureOpenAIAdapter(),
    "anthropic": AnthropicAdapter(),
}
