import pytest

from controlplane.evals.shingles import Match, index, match, protect, shingles
from tests.eval_sets import QUESTION, SENTENCE, read_row

PHRASE = "please let me know if there is anything"  # eight words that anybody writes


def found(row_text: str, said: str) -> list[Match]:
    return match(protect([read_row(name="r", variables={"question": row_text})]), shingles(said))


def test_a_text_is_found_within_another():
    """Word for word, wherever it begins."""
    [one] = found(QUESTION, f"You answer customers. For example: {QUESTION}! Answer briefly.")

    assert one == Match("r", "question", 10, 1.0)


@pytest.mark.parametrize(
    "said",
    [
        QUESTION.upper(),
        QUESTION.replace(" ", "\n  - "),
        QUESTION.replace("e", "é"),
        "".join(chr(ord(one) + 0xFEE0) if one.isalpha() else one for one in QUESTION),
        QUESTION.replace("a", "a\u200b"),
    ],
)
def test_disguise_does_not_help(said):
    """Case, accents, what stands between words, full-width letters and what nobody sees do not make other words."""
    assert [one.share for one in found(QUESTION, said)] == [1.0]


@pytest.mark.parametrize(
    ("row_text", "said"),
    [
        # A paraphrase shares the sense and no eight words on end.
        (QUESTION, "The curtains in blue do not look like the picture; until when may I return them?"),
        # A phrase that anybody writes is a part of the question only.
        (f"{PHRASE} that I can do about the late parcel", f"Be kind. End with: {PHRASE} else."),
        (f"Hello and {PHRASE} wrong", f"{PHRASE} unclear"),
        # Half of a text, and less than 13 words of it.
        (" ".join(f"w{n}" for n in range(20)), " ".join(f"w{n}" for n in range(12))),
        # Shorter than a run of words: everybody asks that.
        ("Where is my parcel?", "Where is my parcel?"),
        # The same words in another order.
        (QUESTION, " ".join(sorted(QUESTION.split()))),
    ],
)
def test_near_misses_are_none(row_text, said):
    """What any two texts about the same shop have in common raises no alarm."""
    assert found(row_text, said) == []


@pytest.mark.parametrize(
    ("words", "said", "is_found"),
    [
        (8, 8, True),
        (11, 10, True),  # three of four runs
        (11, 9, False),
        (60, 13, True),  # a tenth of it, but 13 words on end
        (60, 12, False),
    ],
)
def test_threshold(words, said, is_found):
    """Three quarters of a text's runs, or six of them."""
    text = [f"w{number}" for number in range(words)]

    assert bool(found(" ".join(text), " ".join(text[:said]))) is is_found


def test_what_many_rows_share_is_no_row_s_own():
    """A source that all rows rest on may be quoted in a prompt; one that few rows have may not."""
    everybody_s, few_s = {"id": "all", "text": SENTENCE}, {"id": "few", "text": f"{PHRASE} else"}
    rows = [
        read_row(name=f"r{number}", sources=[everybody_s, few_s] if number < 3 else [everybody_s])
        for number in range(5)
    ]

    protected = protect(rows)

    assert match(protected, shingles(SENTENCE)) == []
    assert [(one.row_key, one.place) for one in match(protected, shingles(f"{PHRASE} else"))] == [
        (f"r{number}", "source few") for number in range(3)
    ]


def test_of_each_row_the_text_is_told_of_which_most_is_there():
    """One finding for a row, however many of its texts are found."""
    row = read_row(name="r", variables={"question": QUESTION}, answer=f"{QUESTION} or is it longer than I think")

    [one] = match(protect([row]), shingles(QUESTION))

    assert (one.place, one.share) == ("question", 1.0)


def test_texts_are_found_by_each_of_their_runs():
    """The index says of a run which texts have it."""
    [one] = protect([read_row(variables={"question": QUESTION})])

    assert set(index([one])) == one.shingles
    assert all(texts == [one] for texts in index([one]).values())
