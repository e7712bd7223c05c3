"""Personal data by its shape and, where it has one, its checksum, so that random digits are not taken for it. Pure.

Expressions see text without accents, with ASCII digits and hyphens (`Fold.BARE`).

What belongs to a company rather than to a person is left alone: mailboxes of a role, numbers that are free to call,
addresses of private networks.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

from dataplane.documents import Node
from dataplane.validators.checksums import CARD_LIKE, IBAN_LIKE, card_in, compact, iban_in
from dataplane.validators.detector import Check, Detector, Sieve
from dataplane.validators.folding import Fold
from dataplane.validators.kinds import Meter, Problem, found_by
from dataplane.validators.patterns import pattern
from dataplane.validators.redaction import parse_replacement
from dataplane.validators.values import Channel, Output

_ROLES: Final = frozenset(
    word
    for line in (
        "abuse accounts admin billing careers compliance contact customercare customerservice dpo enquiries feedback",
        "finance hello help helpdesk hr info invoices it jobs legal mail marketing media newsletter noc no-reply",
        "noreply notifications office orders postmaster press privacy returns sales security service services shipping",
        "shop support team unsubscribe webmaster welcome",
    )
    for word in line.split()
)
_FREE_TO_CALL: Final = re.compile(r"(?:1?8(?:00|33|44|55|66|77|88)\d{7}|0800\d{5,8}|(?:44|49|33|39)800\d{5,9})\Z")
_MONTHS: Final = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)"
)
_DAY: Final = (
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}[./ -][0-9]{1,2}[./ -](?:[0-9]{4}|[0-9]{2})"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.)? (?:of )?{_MONTHS}\.?,? [0-9]{{4}}|{_MONTHS}\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? "
    r"[0-9]{4})\b"
)
_BIRTH: Final = re.compile(rf"(?i).*?\b({_DAY})\Z", re.ASCII | re.DOTALL)


def _email(text: str, start: int, end: int) -> tuple[int, int] | int:
    local = text[start:end].partition("@")[0].lower()
    return end if local in _ROLES or local.partition("+")[0] in _ROLES else (start, end)


def _phone(least: int, most: int) -> Check:
    """A check: as many digits as that, not within a word, and not free to call."""

    def check(text: str, start: int, end: int) -> tuple[int, int] | int:
        if text[start + 1 : start + 4] in {" 00", "-00"}:
            return end
        if start and (text[start - 1].isalnum() or text[start - 1] in "+=/-"):
            return start + 1
        digits = "".join(filter(str.isdigit, text[start:end]))
        if not least <= len(digits) <= most or _FREE_TO_CALL.match(digits):
            return start + 1
        return start, end

    return check


def _address(text: str, start: int, end: int) -> tuple[int, int] | int:
    """An address that is routed in the internet, and no version of some program."""
    if text[start].isalpha() or text[start - 1 : start] == "." or text.count(".", start, end) > 3:
        return end
    try:
        return (start, end) if ipaddress.IPv4Address(text[start:end]).is_global else end
    except ValueError:
        return end


def _long_address(text: str, start: int, end: int) -> tuple[int, int] | int:
    if text[start - 1 : start] == ":" or text[end : end + 1] == ":":
        return end
    try:
        return (start, end) if ipaddress.IPv6Address(text[start:end]).is_global else end
    except ValueError:
        return end


def _birth(text: str, start: int, end: int) -> tuple[int, int] | int:
    day = _BIRTH.match(text, start, end)
    return end if day is None else day.span(1)


def _number(is_right: Callable[[str], bool], shape: str = "") -> Check:
    """A check: what matched, or the end of it that has this shape, is right."""
    where = re.compile(rf".*?\b({shape})\Z", re.ASCII | re.DOTALL) if shape else None

    def check(text: str, start: int, end: int) -> tuple[int, int] | int:
        if where is not None:
            found = where.match(text, start, end)
            if found is None:
                return end
            start, end = found.span(1)
        return (start, end) if is_right(compact(text[start:end])) else end

    return check


def _labelled(labels: str, shape: str) -> str:
    """An expression for a number that is one only by the words before it."""
    return rf"(?i:\b(?:{labels})\b)[^0-9\n]{{0,24}}{shape}\b"


def _national() -> tuple[Detector, ...]:
    """Numbers that states give to people. Where one or two check digits are all that tells them from other numbers, the
    words before have to say so.
    """

    def strong(country: str, shape: str, is_right: Callable[[str], bool]) -> Detector:
        return Detector(f"national id ({country})", pattern(shape), _number(is_right))

    def weak(country: str, labels: str, shape: str, is_right: Callable[[str], bool]) -> Detector:
        return Detector(f"national id ({country})", pattern(_labelled(labels, shape)), _number(is_right, shape))

    return (
        strong("es", r"\b(?:[0-9]{8}|[XYZ][0-9]{7})-?[A-HJ-NP-TV-Z]\b", lambda n: dni.is_valid(n) or nie.is_valid(n)),
        strong(
            "fr", r"\b[1278] ?[0-9]{2} ?(?:0[1-9]|1[0-2]) ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}\b", nir.is_valid
        ),
        strong("it", r"\b[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]\b", codicefiscale.is_valid),
        strong("cn", r"\b[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9X]\b", ric.is_valid),
        strong("br", r"\b[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}\b", cpf.is_valid),
        strong("ch", r"\b756[. ]?[0-9]{4}[. ]?[0-9]{4}[. ]?[0-9]{2}\b", ahv.is_valid),
        weak("se", "personnummer|personal number", r"(?:19|20)?[0-9]{6}-?[0-9]{4}", _is_swedish),
        weak("fi", "hetu|henkilotunnus|personal identity code", r"[0-9]{6}[-+A][0-9]{3}[0-9A-Y]", _is_finnish),
        weak("pl", "pesel", r"[0-9]{11}", pesel.is_valid),
        weak("nl", "bsn|burgerservicenummer", r"[0-9]{9}", bsn.is_valid),
        weak(
            "de",
            "steuer-?id(?:nr)?|identifikationsnummer|tax id",
            r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
            idnr.is_valid,
        ),
        weak("gb", "nhs", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", nhs.is_valid),
        weak("us", "ssn|social security", r"[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{4}", ssn.is_valid),
        weak("ca", "sin|social insurance", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", sin.is_valid),
        weak("in", "aadhaar", r"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}", aadhaar.is_valid),
        Detector(
            "national id (gb)",
            pattern(
                r"(?i:\b(?:national insurance|nino|ni number|ni no)\b)[^0-9\n]{0,24}"
                r"\b(?i:[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]) ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?(?i:[A-D])\b"
            ),
            _number(lambda number: True, r"[A-Za-z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-Da-d]"),
        ),
    )


def _is_swedish(number: str) -> bool:
    return bool(personnummer.is_valid(f"{number[:-4]}-{number[-4:]}"))


def _is_finnish(number: str) -> bool:
    # `compact` took the sign of the century; the check digit does not depend on it.
    return any(hetu.is_valid(f"{number[:6]}{century}{number[-4:]}") for century in "-A")


def _emails() -> tuple[Detector, ...]:
    shape = r"\b[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b"
    return (Detector("e-mail address", pattern(shape), _email),)


def _phones() -> tuple[Detector, ...]:
    shapes = (
        # With 00 in place of the plus, unless it goes on after other digits: then it is a part of some longer number.
        (r"(?:\+|(?:[0-9][ -])?\b00)[1-9](?:[ ()./-]{0,3}[0-9]){7,14}\b", 8, 15),
        (r"(?:\b1[-. ])?(?:\([2-9][0-9]{2}\) ?|\b[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-. ][0-9]{4}\b", 10, 11),
        (r"\(0[1-9][0-9]{1,4}\)(?:[ /-]{1,2}[0-9]{2,8}){1,3}\b|\b0[1-9][0-9]{1,3}(?:[ /-][0-9]{3,8}){1,3}\b", 9, 12),
        (r"\b0[1-9](?:[ .-][0-9]{2}){4}\b", 10, 10),
    )
    return tuple(Detector("phone number", pattern(shape), _phone(least, most)) for shape, least, most in shapes)


def _addresses() -> tuple[Detector, ...]:
    short = r"(?:(?i:\b(?:version|release|build|firmware|ver|v)[ .:]{0,2})|\b)[0-9]{1,3}(?:\.[0-9]{1,3}){3,6}\b"
    long = r"\b(?i:[0-9a-f]{1,4})(?::(?i:[0-9a-f]{0,4})){2,7}\b"
    return (
        Detector("IP address", pattern(short), _address),
        Detector("IP address", pattern(long), _long_address),
    )


def _births() -> tuple[Detector, ...]:
    labels = r"date of birth|birth ?date|birthday|d\.?o\.?b|born(?: on)?|geburtsdatum|geboren(?: am)?|nee? le"
    return (Detector("date of birth", pattern(rf"(?i)\b(?:{labels})\b[^0-9\n]{{0,20}}?\b{_DAY}"), _birth),)


# By the name of the class of personal data.
CLASSES: Final[Mapping[str, Callable[[], tuple[Detector, ...]]]] = {
    "email": _emails,
    "phone": _phones,
    "card": lambda: (Detector("card number", pattern(CARD_LIKE), card_in),),
    "iban": lambda: (Detector("IBAN", pattern(IBAN_LIKE), iban_in),),
    "ip": _addresses,
    "national_id": _national,
    "birth_date": _births,
}


@dataclass(frozen=True, slots=True)
class PersonalParams:
    """Personal data of these classes may not be in an answer.

    `allow` is what may be all the same: an address or a number, written in any way, or, after an `@`, a domain.
    """

    classes: tuple[str, ...]
    allow: tuple[str, ...]
    replacement: str
    sieve: Sieve

    @classmethod
    def parse(cls, node: Node) -> PersonalParams:
        """Read them, or raise MalformedRelease.

        Shape: {"classes": [name of CLASSES], "allow"?: [str], "replacement"?: str}.
        """
        members = node.members("classes", optional=("allow", "replacement"))
        for item in members["classes"].items(minimum=1):
            item.one_of(CLASSES)
        classes = members["classes"].texts()
        allow = members["allow"].texts() if "allow" in members else ()
        detectors = tuple(one for name in classes for one in CLASSES[name]())
        if allow:
            detectors = tuple(_allowing(one, allow) for one in detectors)
        return cls(classes, allow, parse_replacement(members), Sieve.of(Fold.BARE, detectors))

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        return found_by(self.sieve, channel, meter)


def _allowing(detector: Detector, allow: tuple[str, ...]) -> Detector:
    """The same detector, but for what is allowed."""
    domains = tuple(one.casefold() for one in allow if one.startswith("@"))
    exact = frozenset(compact(one) for one in allow if not one.startswith("@"))
    before = detector.check

    def check(text: str, start: int, end: int) -> tuple[int, int] | int:
        meant: tuple[int, int] | int = (start, end) if before is None else before(text, start, end)
        if isinstance(meant, int):
            return meant
        found = text[meant[0] : meant[1]]
        if compact(found) in exact or (domains and found.casefold().endswith(domains)):
            return meant[1]
        return meant

    return Detector(detector.what, detector.opening, check)
