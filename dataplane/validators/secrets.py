"""Keys, tokens and passwords, by what their issuers make them look like. Pure.

Where an issuer gives its keys a prefix, the prefix and enough of what follows is all that is asked; the key then goes
on for as long as its characters do, so that a longer one than was known here does not leave its end behind. What has
no prefix needs words before it that say what it is, and enough randomness not to be a word itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import log2
from typing import Final

from dataplane.documents import Node
from dataplane.validators.detector import Check, Detector, Sieve
from dataplane.validators.folding import Fold
from dataplane.validators.kinds import Meter, Problem, found_by
from dataplane.validators.patterns import Pattern, pattern
from dataplane.validators.redaction import parse_replacement
from dataplane.validators.values import Channel, Output

_MOST_OF_A_KEY_FILE: Final = 16_384
_LEAST_BITS: Final = 2.2  # of each character of a key with a prefix; `xxxx` in a manual has fewer
_LEAST_BITS_UNLABELLED: Final = 3.4
_BASE64: Final = "A-Za-z0-9+/="
_HOOKS: Final = "(?:services|workflows|triggers)"
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_STAND_INS: Final = re.compile(
    r"example|placeholder|your[-_]|redacted|changeme|dummy|<|\$\{|\{\{|\*\*\*|\.\.\.", re.IGNORECASE
)
# What stands behind a name, and what stands between them.
_BETWEEN: Final = r".*?(?:=>|[:=]|\bis\b|\s)[\"'`\s]*"
_VALUE: Final = re.compile(rf"{_BETWEEN}([A-Za-z0-9+/_=.~-]+)\Z", re.DOTALL)
_PASSWORD: Final = re.compile(rf"{_BETWEEN}([^\s\"'`,;<>]+)\Z", re.DOTALL)
_OF_ADDRESS: Final = re.compile(r"[^:@/]*://[^:]*:([^@]*)@\Z")


def bits_per_character(text: str) -> float:
    """Shannon's entropy of the characters of a text, by how often each occurs in it."""
    length = len(text)
    return -sum(count / length * log2(count / length) for count in Counter(text).values()) if length else 0.0


def _random_enough(text: str, start: int, end: int) -> tuple[int, int] | int:
    found = text[start:end]
    if bits_per_character(found[-16:]) < _LEAST_BITS or _STAND_INS.search(found):
        return end
    return start, end


def _aws_key(text: str, start: int, end: int) -> tuple[int, int] | int:
    return end if text[start:end].endswith("EXAMPLE") else _random_enough(text, start, end)


def _assigned(text: str, start: int, end: int) -> tuple[int, int] | int:
    """What is random among what stands behind the name of a secret."""
    value = _VALUE.match(text, start, end)
    if value is None or _STAND_INS.search(value[1]) or _UUID.match(value[1]):
        return start + 1
    body = value[1].rstrip(".=")
    has_digit = any(map(str.isdigit, body))
    has_letter = any(map(str.isalpha, body))
    if not (has_digit and has_letter) or bits_per_character(body) < _LEAST_BITS_UNLABELLED:
        return start + 1
    return value.span(1)


def _password(text: str, start: int, end: int) -> tuple[int, int] | int:
    """Something with a digit and a letter in it, of a length that nobody writes by chance after a colon."""
    value = _PASSWORD.match(text, start, end)
    if value is None or _STAND_INS.search(value[1]):
        return start + 1
    body = value[1].rstrip(".!?)")
    if len(body) < 8 or not any(map(str.isdigit, body)) or not any(map(str.isalpha, body)):
        return start + 1
    return value.span(1)


def _of_address(text: str, start: int, end: int) -> tuple[int, int] | int:
    found = _OF_ADDRESS.match(text, start, end)
    if found is None or _STAND_INS.search(found[1]) or found[1].lower() in {"password", "pass", "secret", "pwd"}:
        return start + 1
    return found.span(1)


def _basic(text: str, start: int, end: int) -> tuple[int, int] | int:
    """The base64 of a name and a password."""
    value = text[start:end].rpartition(" ")[2]
    try:
        pair = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return end
    return (end - len(value), end) if b":" in pair and pair.isascii() else end


def _token(what: str, opening: str, characters: str = "A-Za-z0-9_-", check: Check | None = _random_enough) -> Detector:
    """A secret that goes on for as long as these characters do."""
    return Detector(what, pattern(opening), check, _other_than(characters))


def _other_than(characters: str) -> Pattern:
    return pattern(f"[^{characters}]")


def _aws() -> tuple[Detector, ...]:
    name = r"(?i:\b(?:(?:aws[ _-]?)?secret[ _-]?access[ _-]?key|aws[ _-]?secret(?:[ _-]?key)?)\b)"
    label = rf"{name}[\"'`]{{0,2}}(?: is)?[ \t:=>]{{1,5}}[\"'`]{{0,2}}"
    return (
        Detector("AWS access key", pattern(r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"), _aws_key),
        _token("AWS secret key", rf"{label}[A-Za-z0-9/+]{{40}}", "A-Za-z0-9/+=", _assigned),
        _token("AWS key of Bedrock", r"\bABSK[A-Za-z0-9+/]{40}", "A-Za-z0-9+/="),
    )


def _gcp() -> tuple[Detector, ...]:
    return (
        _token("Google API key", r"\bAIza[A-Za-z0-9_-]{35}"),
        _token("Google access token", r"\bya29\.[A-Za-z0-9_-]{20}", "A-Za-z0-9._-"),
        _token("Google client secret", r"\bGOCSPX-[A-Za-z0-9_-]{20}"),
    )


def _azure() -> tuple[Detector, ...]:
    return (
        _token("Azure client secret", r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31}", "A-Za-z0-9_~.-"),
        _token(
            "Azure account key", r"(?i:\b(?:Account|SharedAccess)Key) ?= ?[A-Za-z0-9+/]{32}", "A-Za-z0-9+/=", _assigned
        ),
        _token("Azure shared access signature", r"(?i:[?&]sig=)[A-Za-z0-9%+/]{24}", "A-Za-z0-9%+/="),
    )


def _vendors() -> tuple[Detector, ...]:
    return (
        _token("Hugging Face token", r"\bhf_[A-Za-z]{30}", "A-Za-z0-9"),
        _token("npm token", r"\bnpm_[A-Za-z0-9]{36}", "A-Za-z0-9"),
        _token("PyPI token", r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{20}"),
        _token("SendGrid key", r"\bSG\.[A-Za-z0-9_-]{16,24}\.[A-Za-z0-9_-]{20}"),
        _token("Twilio key", r"\bSK[0-9a-f]{32}", "0-9a-f"),
        _token("Mailgun key", r"\bkey-[0-9a-f]{32}", "0-9a-f"),
        _token("DigitalOcean token", r"\bdo[opr]_v1_[a-f0-9]{40}", "0-9a-f"),
        _token("Shopify token", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}", "0-9a-fA-F"),
        _token("Telegram bot token", r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{32}"),
        _token("Databricks token", r"\bdapi[a-f0-9]{32}", "0-9a-f-"),
        _token("Vault token", r"\bhv[sbr]\.[A-Za-z0-9_-]{24}", "A-Za-z0-9._-"),
        _token("Grafana token", r"\bglsa_[A-Za-z0-9]{32}_[a-f0-9]{8}", "0-9a-f"),
        _token("Linear key", r"\blin_api_[A-Za-z0-9]{40}", "A-Za-z0-9"),
        _token("Groq key", r"\bgsk_[A-Za-z0-9]{40}", "A-Za-z0-9"),
        _token("key of this gateway", r"\b(?:bk|op)-[A-Za-z0-9_-]{40}"),
    )


def _jwt() -> tuple[Detector, ...]:
    # The payload may be thousands of characters long: it begins like any JSON object, and then the token goes on.
    opening = r"\beyJ[A-Za-z0-9_-]{8,400}\.eyJ[A-Za-z0-9_-]{8}"
    return (_token("JSON Web Token", opening, "A-Za-z0-9._-"),)


def _private_key() -> tuple[Detector, ...]:
    # Everything from the first line to the last, whatever is between them.
    return (
        Detector(
            "private key",
            pattern(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
            None,
            pattern(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
            keeps_closing=True,
            most=_MOST_OF_A_KEY_FILE,
        ),
        _token("age secret key", r"\bAGE-SECRET-KEY-1[A-Z0-9]{40}", "A-Z0-9"),
    )


def _header() -> tuple[Detector, ...]:
    return (
        _token("bearer token", r"(?i:\bbearer)[ \t]{1,2}[A-Za-z0-9_.~+/-]{20,64}", "A-Za-z0-9_.~+/=-", _assigned),
        Detector("basic credentials", pattern(r"(?i:\bbasic)[ \t]{1,2}[A-Za-z0-9+/]{12,200}={0,2}"), _basic),
    )


def _assignment() -> tuple[Detector, ...]:
    between = r"[\"'`]{0,2}[ \t]{0,3}(?:=>|[:=]|\bis\b)[ \t]{0,3}[\"'`]{0,2}"
    opening = rf"(?i:key|secret|token|credentials?){between}[A-Za-z0-9+/_=.~-]{{16,128}}"
    return (_token("secret", opening, "A-Za-z0-9+/_=.~-", _assigned),)


def _passwords() -> tuple[Detector, ...]:
    between = r"[\"'`]{0,2}[ \t]{0,3}(?:=>|[:=]|\bis\b)[ \t]{0,3}[\"'`]{0,2}"
    named = rf"(?i:\b(?:password|passwd|passphrase|pwd|passwort|mot de passe)){between}[^\s\"'`,;<>]{{8,64}}"
    return (
        Detector("password", pattern(named), _password, pattern(r"[\s\"'`,;<>]")),
        Detector(
            "password in an address",
            pattern(r"(?i:\b[a-z][a-z0-9+.-]{1,20})://[^\s:/@\"'<>]{0,64}:[^\s/@\"'<>]{3,128}@"),
            _of_address,
        ),
    )


# By the name of the class of secrets.
CLASSES: Final[Mapping[str, Callable[[], tuple[Detector, ...]]]] = {
    "aws": _aws,
    "gcp": _gcp,
    "azure": _azure,
    "github": lambda: (
        _token("GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36}", "A-Za-z0-9_"),
        _token("GitHub token", r"\bgithub_pat_[A-Za-z0-9_]{22}", "A-Za-z0-9_"),
    ),
    "gitlab": lambda: (
        _token("GitLab token", r"\bgl(?:pat|ptt|dt|rt|cbt|agent|soat|ft|imt)-[A-Za-z0-9_-]{20}", "A-Za-z0-9_.-"),
    ),
    "slack": lambda: (
        _token("Slack token", r"\bxox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{20}", "A-Za-z0-9-"),
        _token("Slack token", r"\bxapp-[0-9]-[A-Z0-9]{8,12}-[0-9]{8,14}-[a-z0-9]{20}", "a-z0-9"),
        _token(
            "Slack webhook",
            r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Z0-9]{8,12}/[A-Z0-9]{8,12}/[A-Za-z0-9]{16}",
        ),
    ),
    "stripe": lambda: (
        _token("Stripe key", r"\b[sr]k_(?:live|test|prod)_[A-Za-z0-9]{16}", "A-Za-z0-9"),
        _token("Stripe webhook secret", r"\bwhsec_[A-Za-z0-9+/]{24}", "A-Za-z0-9+/="),
    ),
    "openai": lambda: (
        _token("OpenAI key", r"\bsk-(?:proj|svcacct|admin|service|None)-[A-Za-z0-9_-]{20}"),
        _token("OpenAI key", r"\bsk-[A-Za-z0-9]{32}"),
    ),
    "anthropic": lambda: (_token("Anthropic key", r"\bsk-ant-[a-z0-9]{2,12}-[A-Za-z0-9_-]{20}"),),
    "vendors": _vendors,
    "jwt": _jwt,
    "private_key": _private_key,
    "header": _header,
    "assignment": _assignment,
    "password": _passwords,
}


@dataclass(frozen=True, slots=True)
class SecretParams:
    """Secrets of these classes may not be in an answer."""

    classes: tuple[str, ...]
    replacement: str
    sieve: Sieve

    @classmethod
    def parse(cls, node: Node) -> SecretParams:
        """Read them, or raise MalformedRelease. Shape: {"classes": [name of CLASSES], "replacement"?: str}."""
        members = node.members("classes", optional=("replacement",))
        for item in members["classes"].items(minimum=1):
            item.one_of(CLASSES)
        classes = members["classes"].texts()
        detectors = tuple(one for name in classes for one in CLASSES[name]())
        return cls(classes, parse_replacement(members), Sieve.of(Fold.BARE, detectors))

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        return found_by(self.sieve, channel, meter)
