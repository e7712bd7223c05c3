"""Signatures as the specification has them, and secrets as the database has them."""

from datetime import UTC, datetime

import pytest

from controlplane.alerts.errors import SecretUnreadable
from controlplane.alerts.sealing import new_secret, seal, unseal
from controlplane.alerts.signatures import headers_of

# The example of the Standard Webhooks libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = datetime.fromtimestamp(1614265330, UTC)


def test_signature_is_that_of_the_published_example():
    """Their message, their secret, their signature."""
    headers = headers_of(b'{"test": 2432232314}', message_id=MESSAGE_ID, secrets=[SECRET], at=AT)

    assert headers == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_signs_in_its_order():
    """With a space between, as receivers split them."""
    one, two = new_secret(), new_secret()

    both = headers_of(b"{}", message_id="m", secrets=[one, two], at=AT)["webhook-signature"]

    each = [headers_of(b"{}", message_id="m", secrets=[key], at=AT)["webhook-signature"] for key in (one, two)]
    assert both.split(" ") == each
    assert each[0] != each[1]


def test_sealed_secret_is_opened_under_the_secret_key_alone(settings):
    """Also when that has become an old one; never under another."""
    secret = new_secret()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "first", []
    sealed = seal(secret)
    assert secret not in sealed
    assert unseal(sealed) == secret

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "second", ["first"]
    assert unseal(sealed) == secret

    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(SecretUnreadable, match="BALLAST_OLD_SECRET_KEYS"):
        unseal(sealed)
