"""Numbers that carry check digits: which of them check, and which only look as if they should. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stdnum import ean, iban, imei, isbn, lei
from stdnum.eu import vat

from dataplane.documents import Node
from dataplane.validators.detector import Check, Detector, Sieve
from dataplane.validators.folding import Fold
from dataplane.validators.kinds import Meter, Problem, found_by
from dataplane.validators.patterns import pattern
from dataplane.validators.values import Channel, Output

_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_CARD: Final = re.compile(
    r"(?:4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-59]|[689]\d)\d{11,16}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|62\d{14,17}"
    r"|(?:50|5[6-9]|6[0379])\d{14,17})\Z",
    re.ASCII,
)
# Of the countries that have account numbers of this kind.
_IBAN_LENGTHS: Final[Mapping[str, int]] = {
    word[:2]: int(word[2:])
    for line in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29",
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20",
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29",
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
        "YE30",
    )
    for word in line.split()
}


def is_luhn(digits: str) -> bool:
    """Whether ASCII digits check by the algorithm of Luhn."""
    values = [ord(digit) - 48 for digit in reversed(digits)]
    return (sum(values[::2]) + sum(_DOUBLED[value] for value in values[1::2])) % 10 == 0


def is_card(digits: str) -> bool:
    """Whether ASCII digits are the number of a payment card: an issuer that exists, a length it has today, and Luhn.

    The 13 digits of old Visa and Maestro cards are left out: article numbers (EAN) have as many, and begin like them.
    """
    return _CARD.match(digits) is not None and is_luhn(digits)


def is_iban(text: str) -> bool:
    """Whether letters and digits are an account's number: its country's length and shape, and modulo 97."""
    if len(text) != _IBAN_LENGTHS.get(text[:2]):
        return False
    if int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 != 1:
        return False
    return bool(iban.is_valid(text))


def ends(text: str, start: int, end: int, *, least: int, most: int) -> Iterator[int]:
    """Where something of `least` to `most` letters and digits that begins at `start` may end, the longest first: at
    `end` or before, and not within a word.
    """
    found = []
    count = 0
    for at in range(start, end):
        if not text[at].isalnum():
            continue
        count += 1
        if count > most:
            break
        if count >= least and not text[at + 1 : at + 2].isalnum():
            found.append(at + 1)
    return reversed(found)


def compact(text: str) -> str:
    """The letters and digits of a text, in upper case."""
    return "".join(filter(str.isalnum, text)).upper()


def card_in(text: str, start: int, end: int) -> tuple[int, int] | int:
    """A check: the card's number that begins with the match."""
    for stop in ends(text, start, end, least=14, most=19):
        if is_card(compact(text[start:stop])):
            return start, stop
    return start + 1


def iban_in(text: str, start: int, end: int) -> tuple[int, int] | int:
    """A check: the account's number that begins with the match."""
    length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length is None:
        return start + 1
    for stop in ends(text, start, end, least=length, most=length):
        if is_iban(compact(text[start:stop])):
            return start, stop
    return start + 1


CARD_LIKE: Final = r"\b[2-6][0-9]{3}(?:[ -]?[0-9]){8,15}"
IBAN_LIKE: Final = r"\b(?i:[A-Z]{2})[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}"


def _wrong(where: re.Pattern[str], is_right: Callable[[str], bool]) -> Check:
    """A check that means what does not check; `where` finds, within a match, the number as group 1."""

    def check(text: str, start: int, end: int) -> tuple[int, int] | int:
        number = where.match(text, start, end)
        if number is None or is_right(compact(number[1])):
            return end
        return number.span(1)

    return check


def _wrong_iban(text: str, start: int, end: int) -> tuple[int, int] | int:
    right = iban_in(text, start, end)
    if not isinstance(right, int):
        return right[1]
    if sum(character.isdigit() for character in text[start:end]) < 10:
        return end  # letters and hardly a digit: a product key, say
    return start, end


def _wrong_card(text: str, start: int, end: int) -> tuple[int, int] | int:
    right = card_in(text, start, end)
    return (start, end) if isinstance(right, int) else right[1]


_LABELLED: Final = re.compile(r".*?\b([A-Z]{2} ?[0-9A-Z][0-9A-Z .]{5,14}[0-9A-Z])\Z", re.ASCII | re.DOTALL)
_CODE: Final = re.compile(r".*?\b([A-Z0-9]{18}[0-9]{2})\Z", re.ASCII | re.DOTALL)
_EAN: Final = re.compile(r".*?([0-9]{8,14})\Z", re.ASCII | re.DOTALL)


def _detector(what: str, text: str, check: Check) -> Detector:
    return Detector(f"{what} that does not check", pattern(text), check)


# What looks like one, and is none.
LOOKALIKES: Final[Mapping[str, Callable[[], Detector]]] = {
    "iban": lambda: _detector(
        "IBAN",
        rf"\b(?:{'|'.join(_IBAN_LENGTHS)})[0-9]{{2}}"
        r"(?:(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?|[A-Z0-9]{11,30})\b",
        _wrong_iban,
    ),
    "card": lambda: _detector(
        "card number",
        r"\b[3-6][0-9]{3}[ -][0-9]{4}[ -][0-9]{4}[ -][0-9]{4}\b|\b3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5}\b",
        _wrong_card,
    ),
    "eu_vat": lambda: _detector(
        "VAT number",
        r"(?i:\b(?:VAT|USt-?Id(?:-?Nr)?|TVA|IVA|BTW)\b)[^0-9\n]{0,24}\b(?:[A-Z]{2}) ?[0-9A-Z][0-9A-Z.]{5,12}[0-9A-Z]\b",
        _wrong(_LABELLED, lambda number: bool(vat.is_valid(number))),
    ),
    "isbn": lambda: _detector(
        "ISBN",
        r"(?i)\bISBN(?:-1[03])?\b[: ]{0,3}[0-9](?:[ -]?[0-9]){8,12}(?:[ -]?[0-9X])?\b",
        _wrong(
            re.compile(r"ISBN(?:-1[03])?[: ]*([0-9][0-9 -]*[0-9Xx])", re.ASCII | re.IGNORECASE),
            lambda number: bool(isbn.is_valid(number)),
        ),
    ),
    "ean": lambda: _detector(
        "EAN",
        r"(?i)\b(?:EAN|GTIN|UPC)(?:-?(?:8|12|13|14))?(?: code| number)?[: ]{1,3}[0-9]{8,14}\b",
        _wrong(_EAN, lambda number: bool(ean.is_valid(number))),
    ),
    "imei": lambda: _detector(
        "IMEI",
        r"(?i)\bIMEI(?: number)?[: ]{1,3}[0-9]{15}\b",
        _wrong(re.compile(r".*?([0-9]{15})\Z", re.ASCII | re.DOTALL), lambda number: bool(imei.is_valid(number))),
    ),
    "lei": lambda: _detector(
        "LEI",
        r"(?i:\bLEI(?: code)?)[: ]{1,3}[A-Z0-9]{18}[0-9]{2}\b",
        _wrong(_CODE, lambda number: bool(lei.is_valid(number))),
    ),
}


@dataclass(frozen=True, slots=True)
class ChecksumParams:
    """Numbers that look like one of `kinds` have to check."""

    kinds: tuple[str, ...]
    sieve: Sieve

    @classmethod
    def parse(cls, node: Node) -> ChecksumParams:
        """Read them, or raise MalformedRelease. Shape: {"kinds": [name of LOOKALIKES]}."""
        members = node.members("kinds")
        for item in members["kinds"].items(minimum=1):
            item.one_of(LOOKALIKES)
        kinds = members["kinds"].texts()
        return cls(kinds, Sieve.of(Fold.BARE, tuple(LOOKALIKES[kind]() for kind in kinds)))

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        return found_by(self.sieve, channel, meter)
