"""Webhooks as a receiver sees them: real requests, checked by code that is not ours."""

from __future__ import annotations

import json
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from controlplane.alerts import delivery, operations, webhooks
from controlplane.alerts.errors import DeliveryFailed
from controlplane.alerts.models import Alert, Channel, Delivery
from controlplane.alerts.networks import Place, Reach
from controlplane.audit.models import AuditEvent
from controlplane.deadletters.checks import Work
from controlplane.deadletters.handing_in import hand_in
from controlplane.deadletters.models import DeadLetter
from controlplane.work import runner
from controlplane.work.errors import GiveUp
from controlplane.work.models import Task
from tests.alerts.channels import make_webhook, only, outside, raise_one, work
from tests.alerts.receiver import serve
from tests.deadletters.letters import sql
from tests.factories import NOW, crew

pytestmark = pytest.mark.django_db
DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"


def let_the_pause_pass():
    """As if what waits for its next attempt had waited."""
    sql("UPDATE work_task SET not_before = now() - interval '1 h' WHERE state = 'queued'")


def deliver(**fields):
    """Try the one delivery, in this world."""
    delivery.deliver(only().pk, outside=outside(**fields), now=lambda: NOW)


def test_alert_arrives_signed_and_says_what_happened(receiver, caplog):
    """The body, the headers, and a signature that a receiver's own code checks; no log has the token."""
    secret = make_webhook(receiver.url()).secret
    raise_one()

    work()

    [message] = receiver.messages
    assert message.path == "/hooks/ballast?token=t0ken"
    assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["webhook-id"] == only().message_id
    assert message.is_signed_with(secret)
    assert json.loads(message.body) == {
        "type": "canary.rolled_back",
        "timestamp": "2026-03-04T12:00:00Z",
        "data": {
            "id": Alert.objects.get().pk,
            "severity": "page",
            "title": "Canary answers-v2 was rolled back",
            "sentence": "Cost is 14.2 % above control; everybody is on v1 again.",
            "facts": {"rail": "cost", "harm": 14.2},
            "target": "canary:answers-v2",
            "url": "http://127.0.0.1:8000/canaries/answers-v2/",
        },
    }
    row = only()
    assert (row.state, row.attempts, row.last_status, row.last_problem) == ("delivered", 1, 204, "")
    assert row.ms is not None
    assert row.delivered_at is not None
    assert "t0ken" not in caplog.text


def test_example_of_the_guide_takes_ours_and_nothing_else(receiver):
    """The lines that docs/alerts.md offers, run as they stand there."""
    secret = make_webhook(receiver.url()).secret
    raise_one()
    work()
    [message] = receiver.messages
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    world: dict[str, object] = {}
    exec(code, world)  # noqa: S102 - ours, from our own documentation
    verify = world["verify"]

    assert verify(message.body, message.headers, secret) == json.loads(message.body)
    late = message.headers | {"webhook-timestamp": str(int(message.headers["webhook-timestamp"]) - 600)}
    for body, headers, key in (
        (message.body + b" ", message.headers, secret),
        (message.body, message.headers | {"webhook-id": "msg_other"}, secret),
        (message.body, late, secret),
        (message.body, message.headers, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ):
        with pytest.raises(ValueError, match="webhook"):
            verify(body, headers, key)


def test_both_secrets_sign_for_a_day_after_a_rotation(receiver):
    """Then the new one alone; and one that was rotated out before does not come back."""
    made = make_webhook(receiver.url())
    first = operations.rotate_secret(channel=made.channel, actor=crew.admin, now=NOW)
    second = operations.rotate_secret(channel=made.channel, actor=crew.admin, now=NOW)
    raise_one(dedupe="1")
    raise_one(dedupe="2")

    for hours, told in zip((23, 24), Delivery.objects.all(), strict=True):
        delivery.deliver(told.pk, outside=outside(), now=lambda at=NOW + timedelta(hours=hours): at)

    signed = [[message.is_signed_with(one.secret) for one in (made, first, second)] for message in receiver.messages]
    assert signed == [[False, True, True], [False, False, True]]
    assert len({made.secret, first.secret, second.secret}) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_receiver_that_has_no_time_is_asked_again(receiver, status):
    """After a pause, as the same message, signed anew."""
    receiver.statuses = [status]
    make_webhook(receiver.url())
    raise_one()

    work()
    row = only()
    assert (row.state, row.attempts, row.last_status) == ("pending", 1, status)
    assert row.last_problem == f"'127.0.0.1' answered {status}"
    let_the_pause_pass()
    work()

    first, second = receiver.messages
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    row = only()
    assert (row.state, row.attempts, row.last_status, row.last_problem) == ("delivered", 2, 204, "")
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(
    ("status", "code", "category"),
    [
        (400, "receiver_refused", "validation"),
        (401, "receiver_refused", "policy"),
        (404, "receiver_refused", "validation"),
        (301, "receiver_moved", "validation"),
        (307, "receiver_moved", "validation"),
    ],
)
def test_what_trying_again_would_not_mend_is_given_up_at_once(receiver, status, code, category):
    """It is a dead letter of the kind webhook; a redirect leads nowhere."""
    receiver.statuses = [status]
    receiver.headers = {"Location": receiver.url()}
    make_webhook(receiver.url())
    raise_one()

    work()

    assert len(receiver.messages) == 1
    assert (only().state, only().last_status) == ("failed", status)
    letter = DeadLetter.objects.get()
    assert (letter.kind, letter.name, letter.tenant) == ("webhook", "alerts.deliver", "")
    assert (letter.code, letter.category, letter.state) == (code, category, "open")


def test_receiver_that_is_gone_is_never_asked_again(receiver):
    """Its channel is disabled and says why; the others are told of that."""
    receiver.statuses = [410]
    make_webhook(receiver.url(), slug="gone", events=["canary.rolled_back"])
    other = make_webhook(receiver.url(), slug="other", events=["channel.disabled"])
    raise_one()

    work()
    raise_one(dedupe="next")
    work()

    channel = Channel.objects.get(slug="gone")
    assert (channel.enabled, channel.disabled_why) == (False, "the receiver answered 410: it is gone for good")
    assert AuditEvent.objects.get(action="alert_channel.gone").target == "alert-channel:gone"
    _, told = receiver.messages
    assert json.loads(told.body)["data"]["title"] == "Channel gone is disabled"
    assert told.is_signed_with(other.secret)
    assert DeadLetter.objects.get().code == "receiver_gone"


def test_what_is_on_its_way_to_a_disabled_channel_is_not_sent(receiver):
    """Whoever disabled it wanted silence; what was held back is a dead letter."""
    channel = make_webhook(receiver.url()).channel
    raise_one()
    operations.set_enabled(channel=channel, enabled=False, actor=crew.admin, now=NOW)

    work()

    assert receiver.messages == []
    assert only().state == "failed"
    assert DeadLetter.objects.get().code == "channel_disabled"


def test_delivery_fails_when_all_its_attempts_have(receiver):
    """Its last failure and its dead letter are one transaction."""
    receiver.statuses = [500] * 99
    make_webhook(receiver.url())
    raise_one()

    for _ in range(20):
        assert only().state == "pending"
        let_the_pause_pass()
        work()

    assert (only().state, only().attempts, len(receiver.messages)) == ("failed", 20, 20)
    assert Task.objects.get().state == "dead"
    letter = DeadLetter.objects.get()
    assert (letter.category, letter.code) == ("dependency", "receiver_unavailable")


def test_redriven_delivery_comes_with_the_same_id(receiver):
    """So that a receiver that had it already can tell."""
    receiver.statuses = [400]
    secret = make_webhook(receiver.url()).secret
    raise_one()
    work()
    letter = DeadLetter.objects.get()

    hand_in(letter, Work({"delivery": str(only().pk)}), edit_digest="", now=NOW)
    work()

    first, again = receiver.messages
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == only().message_id
    assert again.is_signed_with(secret)
    assert (only().state, only().attempts) == ("delivered", 2)


def test_redriven_with_other_arguments_it_is_given_up(receiver):
    """An edit can name what is not there; that is no fault to try again for."""
    receiver.statuses = [400]
    make_webhook(receiver.url())
    raise_one()
    work()

    hand_in(DeadLetter.objects.get(), Work({"delivery": "x"}), edit_digest="e", now=NOW)
    work()

    assert len(receiver.messages) == 1
    assert {letter.code for letter in DeadLetter.objects.all()} == {"receiver_refused", "invalid_request"}


def test_what_is_delivered_is_not_sent_again(receiver):
    """Work that comes twice, after a crash say, finds it done."""
    make_webhook(receiver.url())
    raise_one()
    work()

    deliver()

    assert len(receiver.messages) == 1
    assert only().attempts == 1


# --- where it goes ---------------------------------------------------------------------------------------------------
def test_name_that_leads_elsewhere_by_now_is_not_followed(receiver):
    """It was anybody's address when the channel was saved; when it is called it is this machine's."""
    make_webhook(f"https://receiver.example:{receiver.port}/", outside=outside("8.8.8.8", reach=Reach.PUBLIC))
    raise_one()

    with pytest.raises(GiveUp, match=r"'receiver.example' is at 127.0.0.1, this very machine") as given_up:
        delivery.deliver(only().pk, outside=outside("127.0.0.1", reach=Reach.PUBLIC), now=lambda: NOW)

    assert given_up.value.code == "address_refused"
    assert receiver.messages == []


def test_connection_goes_to_the_address_that_was_looked_up(receiver):
    """No name is asked for a second time: this one exists nowhere but in the test's own answer."""
    make_webhook(receiver.url("receiver.invalid"))
    raise_one()

    deliver()

    [message] = receiver.messages
    assert message.headers["host"] == f"receiver.invalid:{receiver.port}"
    assert only().state == "delivered"


def test_next_address_is_tried_when_nobody_listens_at_the_first(receiver):
    """A host with IPv6 in its name and a receiver that has none."""
    place = Place(receiver.url("receiver.invalid"), "receiver.invalid", ("127.0.0.2", "127.0.0.1"))

    assert webhooks.post(place, b"{}", {}).status == 204


def test_proxies_of_the_environment_are_not_used(receiver, monkeypatch):
    """They would look the name up themselves."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    place = Place(receiver.url(), "127.0.0.1", ("127.0.0.1",))

    assert webhooks.post(place, b"{}", {}).status == 204


def test_answer_that_does_not_end_is_not_waited_for(receiver):
    """Its status is all that counts."""
    receiver.endless, receiver.statuses = True, [200]
    place = Place(receiver.url(), "127.0.0.1", ("127.0.0.1",))

    assert webhooks.post(place, b"{}", {}).status == 200


def test_receiver_that_says_nothing_is_left_after_the_deadline(receiver):
    """It counts as away."""
    receiver.silent.set()
    make_webhook(receiver.url())
    raise_one()

    with pytest.raises(DeliveryFailed, match=r"gave no answer within 0\.2 s"):
        deliver(seconds=0.2)

    assert (only().state, only().last_status, only().attempts) == ("pending", 0, 1)


def test_nobody_listening_is_a_matter_of_time():
    """Refused connections are tried again."""
    with serve() as receiver:
        url = receiver.url()
    make_webhook(url)
    raise_one()

    work()

    assert only().state == "pending"
    assert "'127.0.0.1' cannot be reached" in only().last_problem


def certificate(tmp_path, name):
    """A certificate for a name, by an authority of its own; its file and a context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    path = tmp_path / f"{name}.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=made.public_bytes(Encoding.PEM).decode())


def test_certificate_is_judged_by_the_name_not_by_the_address(tmp_path):
    """Though the connection goes to an address: the right name passes, another does not."""
    server, client = certificate(tmp_path, "receiver.invalid")
    with serve(server) as receiver:
        right = Place(receiver.url("receiver.invalid"), "receiver.invalid", ("127.0.0.1",))
        wrong = Place(receiver.url("other.invalid"), "other.invalid", ("127.0.0.1",))

        assert webhooks.post(right, b"{}", {}, tls=client).status == 204
        with pytest.raises(DeliveryFailed, match=r"other\.invalid"):
            webhooks.post(wrong, b"{}", {}, tls=client)
        with pytest.raises(DeliveryFailed, match=r"receiver\.invalid"):
            webhooks.post(right, b"{}", {})


def test_poisonous_delivery_has_failed_too(receiver):
    """Workers that died of it leave no answer; the death is noted all the same."""
    make_webhook(receiver.url())
    raise_one()
    sql("UPDATE work_task SET state = 'running', owner = 'w', lapses = 2, lease_until = now() - interval '1 h'")

    runner.operations.sweep(now=NOW, send=False)

    assert only().state == "failed"
    assert "died" in only().last_problem
    assert DeadLetter.objects.get().category == "poison"
