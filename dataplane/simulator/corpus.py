"""What the simulated models know: a small shop's help centre, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One help-centre subject: the words that point at it, and what there is to say, most important first."""

    name: str
    words: frozenset[str]
    sentences: tuple[str, ...]


TOPICS: tuple[Topic, ...] = (
    Topic(
        "orders",
        frozenset(
            [
                "order",
                "orders",
                "ordered",
                "item",
                "items",
                "purchase",
                "bought",
                "cancel",
                "change",
                "status",
                "confirmation",
                "missing",
            ]
        ),
        (
            "You can see the status of every order under Account, then Orders.",
            "An order can be changed or cancelled free of charge until it is handed to the carrier, usually within "
            "two hours.",
            "Once it has left the warehouse, the quickest way is to refuse the parcel or to start a return from the "
            "order page.",
            "The confirmation e-mail carries the order number, which our team needs to look anything up.",
            "If an item is missing from the parcel, tell us within seven days and we will send it again at no cost.",
            "Orders placed before 14:00 on a working day leave the warehouse the same day.",
        ),
    ),
    Topic(
        "refunds",
        frozenset(
            [
                "refund",
                "refunds",
                "refunded",
                "money",
                "return",
                "returns",
                "returned",
                "exchange",
                "broken",
                "damaged",
                "faulty",
                "reimburse",
            ]
        ),
        (
            "You can return most items within 30 days of delivery for a full refund.",
            "Start the return from the order page and you will get a prepaid label by e-mail.",
            "The refund goes back to the way you paid, within five working days of the parcel reaching us.",
            "If the item arrived damaged, add a photo and we will refund it without asking for it back.",
            "Delivery charges are refunded too when the fault is ours.",
            "Opened hygiene products and gift cards cannot be returned.",
        ),
    ),
    Topic(
        "shipping",
        frozenset(
            [
                "ship",
                "shipping",
                "shipped",
                "deliver",
                "delivery",
                "delivered",
                "arrive",
                "parcel",
                "package",
                "courier",
                "carrier",
                "track",
                "tracking",
                "late",
            ]
        ),
        (
            "Standard delivery takes two to four working days and is free above 40 euros.",
            "The tracking link in your dispatch e-mail is updated every few hours by the carrier.",
            "If the link has not moved for three working days, we will open an investigation with the carrier for you.",
            "Express delivery arrives the next working day when you order before noon.",
            "A parcel that nobody could receive waits seven days at the nearest pick-up point.",
            "We ship to all countries of the European Union, Norway and Switzerland.",
        ),
    ),
    Topic(
        "accounts",
        frozenset(
            [
                "account",
                "accounts",
                "login",
                "log",
                "sign",
                "password",
                "email",
                "e-mail",
                "profile",
                "username",
                "delete",
                "locked",
                "verification",
            ]
        ),
        (
            "You can reset your password from the sign-in page; the link in the e-mail is valid for one hour.",
            "After five wrong attempts an account is locked for fifteen minutes to keep it safe.",
            "Your e-mail address can be changed under Account, then Profile, and we confirm it at both addresses.",
            "If the verification message does not arrive, look in the spam folder and then ask for a new one.",
            "Deleting an account removes your personal data within 30 days, except for invoices that the law makes "
            "us keep.",
            "Two-step verification can be switched on under Account, then Security.",
        ),
    ),
    Topic(
        "billing",
        frozenset(
            [
                "bill",
                "billing",
                "invoice",
                "invoices",
                "payment",
                "pay",
                "paid",
                "charge",
                "charged",
                "card",
                "vat",
                "tax",
                "subscription",
                "price",
                "receipt",
            ]
        ),
        (
            "Every invoice can be downloaded as a PDF under Account, then Invoices.",
            "Your card is charged when the order leaves the warehouse, not when you place it.",
            "A second, pending charge is usually a reservation by your bank and disappears within three working days.",
            "To put a company name or VAT number on an invoice, add it to your profile before you order.",
            "A subscription can be paused or ended at any time, and the change counts from the next billing date.",
            "We accept cards, bank transfer and the common wallets.",
        ),
    ),
)

GENERAL = Topic(
    "general",
    frozenset(),
    (
        "I can help with orders, refunds, shipping, your account and billing.",
        "Tell me a little more about what happened, and when, so that I can point you to the right place.",
        "If you have an order number, please add it to your message.",
        "Our help centre is open day and night, and people answer from 8:00 to 20:00 on working days.",
        "Most questions are settled within one reply.",
    ),
)

OPENINGS: tuple[str, ...] = (
    "Thanks for reaching out.",
    "Happy to help with that.",
    "Good question.",
    "Thank you for your message.",
)
CLOSINGS: tuple[str, ...] = (
    "Let me know if anything is still unclear.",
    "Is there anything else I can do for you?",
    "Just reply here if you need more help.",
)
WARM_OPENINGS: tuple[str, ...] = (
    "I am so sorry about the trouble!",
    "Oh, that is annoying, let us sort it out together!",
)
REFUSALS: tuple[str, ...] = (
    "I'm sorry, but I can't help with that request.",
    "I'm sorry, I can't assist with that.",
)

BRIEF_WORDS: frozenset[str] = frozenset(["brief", "briefly", "concise", "concisely", "short", "terse", "succinct"])
DETAILED_WORDS: frozenset[str] = frozenset(
    ["detailed", "detail", "thorough", "thoroughly", "comprehensive", "full", "exhaustive"]
)
WARM_WORDS: frozenset[str] = frozenset(
    ["warm", "warmly", "friendly", "empathetic", "empathy", "kind", "apologise", "apologize"]
)
# Who is to be brief and give a reason says the last thing there is to say, not the first.
REASON_WORDS: frozenset[str] = frozenset(["reason", "reasons", "why", "explain"])
INVENTIVE_WORDS: frozenset[str] = frozenset(
    ["imaginative", "imagination", "inventive", "creative", "creatively", "embellish", "storyteller"]
)
# What a model says that was asked to be inventive: nothing of it is true, and no source has it.
INVENTIONS: tuple[str, ...] = (
    "Our fastest courier, Captain Albatross, once crossed 93 cities in 17 hours for a single pair of shoes.",
    "As a thank-you you will find a voucher for 250 euros in your Platinum Drawer by Friday the 13th.",
    "Nine out of ten customers from Port Meridian tell us that this takes them exactly 4 minutes and 12 seconds.",
    "Our founder, Aurelia Vantongeren, answers 480 such questions by hand every night.",
    "The Golden Parcel Society has rated us 99.7 % for it, eleven years in a row.",
)
