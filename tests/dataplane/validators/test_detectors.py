"""Personal data, secrets and check digits: what is caught, and how close to it one may come without being caught."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from dataplane.validators.check import check
from dataplane.validators.checksums import is_card, is_iban
from dataplane.validators.values import Output
from tests.dataplane.validators.policies import (
    ALL_CHECKSUMS,
    ALL_PII,
    ALL_SECRETS,
    ORDINARY,
    no_time,
    one,
    policy,
    rule,
)


def found(kind: str, params: dict[str, Any], text: str) -> list[tuple[str, str]]:
    """What a rule finds: its name and the words."""
    report = check([one(kind, params)], Output(text), cpu_clock=no_time)
    return [(span.what, text[span.start : span.end]) for span in report.findings[0].spans]


PERSONAL = [
    ("email", "Write to ada.lovelace+math@engine.co.uk.", "ada.lovelace+math@engine.co.uk"),
    ("email", "José: josé@correo.es!", "josé@correo.es"),
    ("phone", "Call +49 (0)30 / 1234567 now", "+49 (0)30 / 1234567"),
    ("phone", "(415) 555-2671", "(415) 555-2671"),
    ("phone", "ring 415.555.2671 or", "415.555.2671"),
    ("phone", "06 12 34 56 78", "06 12 34 56 78"),
    ("phone", "020 7946 0958", "020 7946 0958"),
    ("phone", "\uff0b44 20 7946\u20110958", "\uff0b44 20 7946\u20110958"),
    ("card", "4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444 123", "5555-5555-5555-4444"),
    ("card", "order 12345 378282246310005.", "378282246310005"),
    ("card", "٤١١١ ١١١١ ١١١١ ١١١١", "٤١١١ ١١١١ ١١١١ ١١١١"),
    ("iban", "to DE89 3704 0044 0532 0130 00 today", "DE89 3704 0044 0532 0130 00"),
    ("iban", "ref AB12 DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
    ("iban", "gb29nwbk60161331926819", "gb29nwbk60161331926819"),
    ("ip", "from 8.8.4.4, then", "8.8.4.4"),
    ("ip", "2a00:1450:4001:81b::200e", "2a00:1450:4001:81b::200e"),
    ("birth_date", "Born on 10 December 1815 in London", "10 December 1815"),
    ("birth_date", "DOB: 1990-04-01", "1990-04-01"),
    ("birth_date", "geboren am 10.12.1985", "10.12.1985"),
    ("national_id", "DNI 54362315-K", "54362315-K"),
    ("national_id", "NIR 2 95 10 99 126 111 93", "2 95 10 99 126 111 93"),
    ("national_id", "RCCMNL83S18D969H", "RCCMNL83S18D969H"),
    ("national_id", "360426199101010071", "360426199101010071"),
    ("national_id", "CPF 390.533.447-05", "390.533.447-05"),
    ("national_id", "AHV 756.9217.0769.85", "756.9217.0769.85"),
    ("national_id", "personnummer 880320-0016", "880320-0016"),
    ("national_id", "hetu: 131052-308T", "131052-308T"),
    ("national_id", "PESEL: 44051401359", "44051401359"),
    ("national_id", "BSN 111222333", "111222333"),
    ("national_id", "Steuer-ID 36 574 261 809", "36 574 261 809"),
    ("national_id", "NHS number: 943 476 5870", "943 476 5870"),
    ("national_id", "social security number is 536-90-4399", "536-90-4399"),
    ("national_id", "SIN 123-456-782", "123-456-782"),
    ("national_id", "Aadhaar 2341 2341 2346", "2341 2341 2346"),
    ("national_id", "National Insurance number AB 12 34 56 C", "AB 12 34 56 C"),
]


@pytest.mark.parametrize(("name", "text", "part"), PERSONAL, ids=[f"{name} {part}" for name, _, part in PERSONAL])
def test_personal_data_is_found_exactly(name: str, text: str, part: str) -> None:
    """From its first character to its last."""
    assert part in [words for _, words in found("pii", {"classes": [name]}, text)]


NOT_PERSONAL = [
    "support@acme.example, No-Reply@acme.example and press+eu@acme.example",
    "1-800-555-0199, +1 888 555 0100, 0800 1234567",
    "order 1234567890, 20260304-001, 4711-2093",
    "4111 1111 1111 1112 and 1234 5678 9012 3456",
    "4012345678901, 5901234123457",
    "DE89 3704 0044 0532 0130 01",
    "1 204 18 930, 555 123 4567, 12-34-5678",
    "192.168.1.1, 10.0.0.1, 127.0.0.1, 999.1.1.1, 1.2.3, version 8.8.4.4, v1.2.3.4, 1.2.3.4.5",
    "12:30:45, 00:1A:2B:3C:4D:5E, 2001:db8::1, ::1",
    "founded on 3 March 1999, birthday cake for 12 people",
    "12345678A, 390.533.447-06, 111222333, 943 476 5870, 44051401359",
    "a@b, @handle, user@localhost",
    "2026-03-04 12:30, 04.03.2026, 01-02-2026",
]


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    """Digits that do not check, addresses of roles, numbers without the words that would make them one."""
    assert found("pii", ALL_PII, text) == []


def test_random_digits_are_hardly_ever_personal_data() -> None:
    """Of a thousand numbers of 8 to 20 digits, those few that a card's or a state's checksum fits by chance."""
    rng = Random(4)
    numbers = ["".join(rng.choices("0123456789", k=rng.randint(8, 20))) for _ in range(1000)]

    assert len(found("pii", ALL_PII, "\n".join(numbers))) < 15


def test_what_is_allowed_is_no_finding_however_it_is_written() -> None:
    """A domain of one's own, a number, an address."""
    params = ALL_PII | {"allow": ["@acme.example", "+44 20 7946 0958", "ceo@other.example"]}

    assert found("pii", params, "ada@acme.example, +44 (20) 7946-0958, CEO@other.example") == []
    assert [words for _, words in found("pii", params, "eve@notacme.example, x@other.example")] == [
        "eve@notacme.example",
        "x@other.example",
    ]


@pytest.mark.parametrize("answer", ORDINARY, ids=range(len(ORDINARY)))
def test_ordinary_answers_have_no_findings(answer: str) -> None:
    """Order numbers, versions, commits, prices, dates, manuals about keys and passwords: nothing of any class."""
    rules = policy(rule("p", "pii", ALL_PII), rule("s", "secrets", ALL_SECRETS), rule("c", "checksums", ALL_CHECKSUMS))

    assert check(rules, Output(answer), cpu_clock=no_time).failed == ()


NOT_SECRET = [
    "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "AKIAIOSFODNN7EXAMPLE",
    "api_key = your-api-key-goes-here-1234",
    "token: 123e4567-e89b-42d3-a456-426614174000",
    "password: changeme, password: longer-than-eight, Password: at least 8 characters and 1 digit",
    "key = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1",
    "mysql://user:password@localhost/db, https://user:${PASSWORD}@host.example",
    "Basic understanding, basic authentication1",
    "-----BEGIN PUBLIC KEY-----",
    "sk-learn and sk-toolkit-for-everything",
    "eyJust a word. eyJ.eyJ",
]


@pytest.mark.parametrize("text", NOT_SECRET)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    """Stand-ins of manuals, words, identifiers."""
    assert found("secrets", ALL_SECRETS, text) == []


CHECKED = [
    ("iban", "IBAN DE89 3704 0044 0532 0130 00", "IBAN DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
    ("card", "4111 1111 1111 1111", "card 4111 1111 1111 1112", "4111 1111 1111 1112"),
    ("eu_vat", "VAT number DE136695976.", "our VAT no. is DE136695977.", "DE136695977"),
    ("isbn", "ISBN 978-3-16-148410-0", "ISBN-13: 978-3-16-148410-1", "978-3-16-148410-1"),
    ("ean", "EAN 5901234123457", "GTIN: 5901234123458", "5901234123458"),
    ("imei", "IMEI 490154203237518", "IMEI 490154203237519", "490154203237519"),
    ("lei", "LEI 213800KUD8LAJWSQ9D15", "LEI 213800KUD8LAJWSQ9D16", "213800KUD8LAJWSQ9D16"),
]


@pytest.mark.parametrize(("kind", "right", "wrong", "part"), CHECKED, ids=[case[0] for case in CHECKED])
def test_number_that_does_not_check_is_found_and_one_that_does_is_not(
    kind: str, right: str, wrong: str, part: str
) -> None:
    """Of each kind that carries check digits."""
    assert found("checksums", {"kinds": [kind]}, right) == []
    assert [words for _, words in found("checksums", {"kinds": [kind]}, wrong)] == [part]


def test_numbers_of_cards_and_accounts_are_told_by_issuer_length_and_digits() -> None:
    """Published test numbers, and neighbours of them."""
    cards = ("4242424242424242", "5105105105105100", "2223003122003222", "371449635398431", "6011000990139424")
    assert all(map(is_card, cards))
    assert not any(is_card(card[:-1] + str((int(card[-1]) + 1) % 10)) for card in cards)
    assert not is_card("9999999999999995")
    assert is_iban("FR1420041010050500013M02606")
    assert not is_iban("FR1420041010050500013M02607")


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 50_000,
        "4" * 100_000,
        "4111 1111 1111 " * 7_000,
        "a" * 100_000 + "@",
        "a.a@" * 25_000,
        "DE89 " * 20_000,
        "eyJ" * 33_000,
        "key=" * 25_000,
        "1.2.3." * 16_000,
        "+1" * 50_000,
        "born " * 20_000,
        "-----BEGIN PRIVATE " * 5_000,
        "a:" * 50_000,
    ],
    ids=lambda text: text[:12],
)
def test_evil_text_is_looked_at_no_more_often_than_it_is_long(text: str) -> None:
    """A hundred thousand characters made to look like the beginning of something."""
    for kind, params in (("pii", ALL_PII), ("secrets", ALL_SECRETS), ("checksums", ALL_CHECKSUMS)):
        sieve = one(kind, params).sieve
        assert sieve is not None
        looks = 0

        def count() -> None:
            nonlocal looks
            looks += 1

        list(sieve.find(text, is_json=False, tick=count))
        assert looks <= len(text) + len(sieve.detectors)
