"""A live gateway that is told of a database with corpora in it, a simulator that embeds, and the real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from dataplane.assembly import Stores
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora_documents import SLUG
from tests.dataplane.gateway.conftest import LiveGateway, run_gateway
from tests.dataplane.retrieval.corpus_tables import CorpusTables, corpus_tables

from .searched_corpora import REFUND, searched_sections, serve_all


@pytest.fixture(scope="module")
def searching_gateway(simulator_url: str, keys_url: str) -> Iterator[LiveGateway]:
    """A gateway that is told of the database."""
    stores = Stores(corpora=PostgresCorpusStore(keys_url, timeout_seconds=60))
    with run_gateway(searched_sections(simulator_url), stores=stores) as gateway:
        yield gateway


@pytest.fixture
def gateway(searching_gateway: LiveGateway, simulator: httpx.Client) -> LiveGateway:
    """That gateway, with nothing recorded yet."""
    searching_gateway.forget()
    return searching_gateway


@pytest.fixture
def tables(keys_url: str) -> Iterator[CorpusTables]:
    """The tables, empty."""
    with corpus_tables(keys_url) as tables:
        yield tables


@pytest.fixture
def namespaces(tables: CorpusTables) -> dict[str, int]:
    """What serves each corpus, by its slug."""
    return serve_all(tables)


@pytest.fixture
def retrieve(http: httpx.Client, namespaces: dict[str, int]) -> Callable[..., httpx.Response]:
    """Asks a question as one tenant."""

    def _retrieve(*, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return http.post("/v1/retrieve", json={"corpus": SLUG, "query": REFUND} | fields, headers=headers)

    return _retrieve
