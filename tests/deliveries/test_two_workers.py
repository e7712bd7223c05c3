"""Two workers at the same answers: real connections, real threads."""

from __future__ import annotations

import threading
from random import Random

import pytest
from django.db import connection
from django.utils import timezone

from controlplane.deliveries import operations, sending
from controlplane.ledger.deliveries import Delivery
from tests.alerts.channels import outside
from tests.alerts.receiver import serve
from tests.deliveries.parcels import promise
from tests.factories import crew, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


def test_each_answer_is_sent_once_however_many_send():
    """What one has taken, the others pass over."""
    operations.rotate_secret(tenant=make_tenant(), actor=crew.admin, now=timezone.now())
    begin = threading.Barrier(4)

    def work():
        begin.wait()
        try:
            sending.send_due(outside=outside(), rng=Random(1), now=timezone.now, clock=lambda: 0.0)
        finally:
            connection.close()

    with serve() as receiver:
        promised = {promise(address=receiver.url()).message_id for _ in range(6)}
        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        sent = [message.headers["webhook-id"] for message in receiver.messages]
    assert sorted(sent) == sorted(promised)
    assert set(Delivery.objects.values_list("state", "attempts")) == {("delivered", 1)}
