"""Documents, cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.retrieval.chunking import cut

TEXTS = st.text(st.sampled_from("ab .!\n\r。é"), max_size=600)


@given(TEXTS, st.integers(50, 120), st.integers(0, 25))
def test_chunks_hold_every_word_in_order_and_are_no_longer_than_allowed(text: str, largest: int, overlap: int) -> None:
    """Nothing of a document is lost, and what does not overlap is not there twice."""
    chunks = cut(text, version="passages.v1", max_characters=largest, overlap_characters=overlap)

    assert all(0 < len(chunk) <= largest for chunk in chunks)
    if overlap == 0:
        assert "".join("".join(chunks).split()) == "".join(text.split())
    rest = "".join(text.split())
    for chunk in chunks:
        assert "".join(chunk.split()) in rest


def test_document_is_cut_between_sentences_where_it_can_be() -> None:
    """A passage that is cited reads as one."""
    text = "Parcels take two days. " * 4 + "Refunds take a week. " * 4

    chunks = cut(text, version="passages.v1", max_characters=100, overlap_characters=0)

    assert all(chunk.endswith(".") for chunk in chunks)
    assert cut(" \n ", version="passages.v1", max_characters=100, overlap_characters=0) == []
