"""No order of things people can do lets an unapproved byte out: approvals, roll-outs and releases, all at once."""

import json
import os
from datetime import datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator, RoleGrant
from controlplane.accounts.roles import Role
from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import ApprovalError, DigestRejected, NotApproved, PolicyMissing
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from controlplane.prompts import operations as prompts
from controlplane.prompts.errors import PromptError
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.releases import operations as releases
from controlplane.releases.errors import ReleaseError
from controlplane.releases.models import Release
from controlplane.releases.sections import all_sections
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.errors import RolloutError
from controlplane.rollouts.models import Canary
from controlplane.routing.errors import RoutingError
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import routing_tables
from dataplane.release import parse_trusted_keys, verify
from tests import factories
from tests.approvals.model import Bypass, Change, Model, Word, gates_for, rules_of

REFUSALS = (ApprovalError, RolloutError, PromptError, RoutingError, ReleaseError)
ROLES = {
    "owner": {"prompt-owner", "approver"},  # holds the role, wrote the words
    "ann": {"approver"},
    "ben": {"approver"},
    "cleo": {"approver", "legal"},  # two roles, one hand
    "lee": {"legal"},
    "chris": {"on-call", "approver"},
}
ONE_STEP = ["prompt.live", "routing.table"]
NAMES = st.sampled_from(sorted(ROLES))
ANY = st.integers(0, 5)  # counts from the newest
TEXTS = ("Hi", "Hello", "Good day", "Dear reader", "Listen")
PLANS = (
    [("internal", 5000), ("all", 100), ("all", 5000), ("all", 10000)],
    [("internal", 5000), ("all", 10000)],
    [("all", 500), ("internal", 9000), ("all", 5000)],  # the public first, then more of the staff
    [("internal", 10000)],
)


def stages_of(plan):
    return [
        {"name": f"stage {index}", "audience": audience, "tenants": [], "regions": [], "weight": weight}
        for index, (audience, weight) in enumerate(plan)
    ]


class EveryOrder(RuleBasedStateMachine):
    """People at the console, in any order. Each rule tries one operation and holds the model beside it."""

    def __init__(self):
        super().__init__()
        self.example = transaction.atomic()
        self.example.__enter__()
        self.prompt = Prompt.objects.get()
        self.trusted = parse_trusted_keys((django_settings.DATA_DIR / "keys" / "trusted-keys.json").read_bytes())
        self.model = Model(now=factories.NOW, roles={name: set(roles) for name, roles in ROLES.items()})
        self.changes: dict[int, Change] = {}
        self.ever_live = {1}
        self.ever_signed_tables = {RoutingTable.objects.get().digest}
        self.release, self.looked_at = releases.current_release(), None
        self.live_may_become: set[int] = set()
        self.table_may_become: set[str] = set()

    def teardown(self):
        transaction.set_rollback(True)
        self.example.__exit__(None, None, None)

    # --- doing things ------------------------------------------------------------------------------------------------
    def attempt(self, act):
        """Do it, or be refused for a stated reason; a refusal changes nothing at all."""
        before = audit.head()
        try:
            return act(), None
        except REFUSALS as exc:
            refusal = exc
        assert audit.head() == before, f"refused with {refusal!r}, but something was recorded"
        return None, refusal

    def who(self, name):
        return Operator.objects.get(username=name)

    def pick(self, rows, index):
        rows = list(rows)
        return rows[index % len(rows)] if rows else None

    def known(self, change):
        """The model's change, opened or closed as the database says."""
        known = self.changes[change.pk]
        known.is_open = ChangeRequest.objects.get(pk=change.pk).is_open
        return known

    def remember(self, change, *, content, text, authors, change_class=""):
        self.changes[change.pk] = Change(change.pk, change.kind, change_class, content, text, set(authors))

    def text_of(self, version):
        return version.messages[0]["content"]

    @initialize(
        policy=st.sampled_from(["careful", "strict"]),
        change_class=st.sampled_from(["minor", "legal"]),
        plan=st.sampled_from(PLANS),
        signed=st.sampled_from([True, True, False]),
        glass=st.sampled_from([False, True]),
        depth=st.sampled_from([1, 2, 0, 3, -1]),  # Hypothesis leans to what comes first, so the interesting does
    )
    def begin(self, policy, change_class, plan, signed, glass, depth):
        """A canary somewhere on its way: what is tried after that matters more than how it came about."""
        self.change_policy(policy)
        self.submit("Hello", change_class, "owner")
        self.plan(0, plan, "owner")
        if signed:
            self.everybody_signs(0)
        if glass:
            self.break_glass(0, "chris", 240)
        if depth >= 0:
            self.start(0)
        if depth > 0 and Canary.objects.running().exists():
            self.turn_knob(depth)

    # Few rules of many kinds each: a random walk over a score of rules spends its steps on refusals.
    @rule(
        what=st.sampled_from(["canary", "canary", "edit", "live", "routing"]),
        text=st.sampled_from(TEXTS),
        change_class=st.sampled_from(["minor", "legal"]),
        plan=st.sampled_from(PLANS),
        index=ANY,
        by=st.sampled_from(["owner", "owner", "ann"]),
    )
    def write(self, what, text, change_class, plan, index, by):
        match what:
            case "canary":
                self.submit(text, change_class, by)
                self.plan(index, plan, by)
            case "edit":
                self.edit(index, plan, by)
            case "live":
                self.submit(text, change_class, by)
                self.propose_live(index, by)
            case "routing":
                self.propose_routing(30_000 + 1000 * index, by)

    @precondition(lambda self: ChangeRequest.objects.open().exists())
    @rule(how=st.sampled_from(["reject", "withdraw", "rebase", "rebase"]), index=ANY)
    def close(self, how, index):
        getattr(self, how)(index)

    @rule(
        what=st.sampled_from(["policy", "role", "active"]),
        policy=st.sampled_from(["careful", "careful", "strict", "silent"]),
        name=NAMES,
        role=st.sampled_from(["approver", "legal"]),
        on=st.sampled_from([True, False]),
    )
    def the_ground_moves(self, what, policy, name, role, on):
        match what:
            case "policy":
                self.change_policy(policy)
            case "role":
                self.toggle_role(name, role)
            case "active":
                self.toggle_active(name)
        if on:
            self.go_on()

    @rule(
        what=st.sampled_from(["break", "break", "review", "beat"]),
        index=ANY,
        by=st.sampled_from(["chris", "ann", "owner"]),
        minutes=st.sampled_from([1, 30, 240]),
    )
    def glass(self, what, index, by, minutes):
        match what:
            case "break":
                self.break_glass(index, by, minutes)
            case "review":
                self.review(by)
            case "beat":
                self.beat()
                self.return_to_table(index)

    @precondition(lambda self: Canary.objects.running().exists())
    @rule(how=st.sampled_from(["promote", "promote", "roll_back"]))
    def end(self, how):
        if how == "promote":
            self.turn_knob(9)
        getattr(self, how)()

    @rule(to=st.sampled_from(["version", "table", "release", "release"]), index=ANY)
    def go_back(self, to, index):
        getattr(self, {"version": "return_to_version", "table": "return_to_table", "release": "roll_back_release"}[to])(
            index
        )

    # --- writing -----------------------------------------------------------------------------------------------------
    def submit(self, text, change_class, author):
        version, refusal = self.attempt(
            lambda: factories.make_version(
                self.prompt, text, change_class=change_class, actor=self.who(author), now=self.model.now
            )
        )
        rejected = f"{text} {{{{name}}}}" in self.model.rejected
        assert rejected == isinstance(refusal, DigestRejected)
        assert version is None or not rejected

    def plan(self, index, plan, by):
        version = self.pick(PromptVersion.objects.exclude(number=self.model.live).order_by("-number"), index)
        if version is None:
            return
        canary, _refusal = self.attempt(
            lambda: rollouts.plan_canary(
                candidate=version,
                unit="user",
                stages=stages_of(plan),
                reason="try it",
                actor=self.who(by),
                now=self.model.now,
            )
        )
        if canary is not None:
            content = [version.number, self.model.live, canary.salt, stages_of(plan)]
            self.remember(
                canary.change,
                content=content,
                text=self.text_of(version),
                authors={by, version.author},
                change_class=version.change_class,
            )

    def edit(self, index, plan, by):
        canary = self.pick(Canary.objects.filter(state="planned").order_by("-pk"), index)
        if canary is None:
            return
        done, _ = self.attempt(
            lambda: rollouts.change_plan(
                canary=canary, unit="user", stages=stages_of(plan), actor=self.who(by), now=self.model.now
            )
        )
        known = self.known(canary.change)
        if done is not None and known.content[3] != stages_of(plan):
            known.content = [*known.content[:3], stages_of(plan)]
            known.authors |= {by}

    def propose_live(self, index, by):
        version = self.pick(PromptVersion.objects.exclude(number=self.model.live).order_by("-number"), index)
        if version is None:
            return
        change, _ = self.attempt(
            lambda: prompts.propose_live(version=version, reason="now", actor=self.who(by), now=self.model.now)
        )
        if change is not None:
            self.remember(change, content=version.number, text=self.text_of(version), authors={by, version.author})

    def propose_routing(self, deadline, by):
        document = factories.routing_document(deadline_ms=deadline)

        def propose():
            table = routing_tables.submit(document=document, rationale="r", actor=self.who(by), now=self.model.now)
            return routing_tables.propose(version=table, reason="r", actor=self.who(by), now=self.model.now)

        change, _ = self.attempt(audit.operation(propose))
        if change is not None:
            self.remember(change, content=change.content["number"], text=change.content_digest, authors={by})

    # --- signing -----------------------------------------------------------------------------------------------------
    @precondition(lambda self: ChangeRequest.objects.open().exists())
    @rule(
        index=ANY,
        name=NAMES,
        role=st.sampled_from(["approver", "approver", "legal"]),
        decision=st.sampled_from(["approve", "approve", "approve", "approve", "request_changes", "withdraw"]),
        stale=st.sampled_from([False] * 5 + [True]),
    )
    def sign(self, index, name, role, decision, stale):
        change = self.pick(ChangeRequest.objects.open().order_by("-pk"), index)
        if change is None:
            return
        known = self.known(change)
        face, digest = self.model.face(known), "0" * 64 if stale else change.digest
        row, _refusal = self.attempt(
            lambda: approvals.sign_off(
                change=change, operator=self.who(name), role=role, decision=decision, digest=digest, now=self.model.now
            )
        )
        if row is None:
            return
        assert role in self.model.roles[name]
        assert name not in self.model.inactive
        assert decision != "approve" or name not in known.authors
        assert not stale or decision == "withdraw"
        hours = self.model.rule(known)[2]
        known.words.append(Word(name, role, decision, face, self.model.signs_for(hours)))

    @precondition(lambda self: ChangeRequest.objects.open().exists())
    @rule(index=ANY)
    def everybody_signs(self, index):
        """The common course of things, so that deep states are reached often."""
        self.sign_by_everybody(self.pick(ChangeRequest.objects.open().order_by("-pk"), index))

    def sign_by_everybody(self, change):
        if change is None:
            return
        self.attempt(lambda: approvals.rebase_change(change=change, actor="ann", now=self.model.now))
        for name, role in (("ann", "approver"), ("ben", "approver"), ("chris", "approver"), ("lee", "legal")):
            change.refresh_from_db()
            known = self.known(change)
            face = self.model.face(known)
            row, _ = self.attempt(
                lambda: approvals.sign_off(
                    change=change,
                    operator=self.who(name),  # noqa: B023 - called at once
                    role=role,  # noqa: B023
                    decision="approve",
                    digest=change.digest,
                    now=self.model.now,
                )
            )
            if row is not None:
                known.words.append(Word(name, role, "approve", face, self.model.signs_for(self.model.rule(known)[2])))

    def rebase(self, index):
        change = self.pick(ChangeRequest.objects.order_by("-pk"), index)
        if change is not None:
            self.attempt(lambda: approvals.rebase_change(change=change, actor="ann", now=self.model.now))

    def reject(self, index):
        change = self.pick(ChangeRequest.objects.open().order_by("-pk"), index)
        if change is not None:
            self.attempt(lambda: approvals.reject_change(change=change, actor="ann", reason="no", now=self.model.now))
            self.model.rejected.add(self.known(change).text)

    def withdraw(self, index):
        change = self.pick(ChangeRequest.objects.order_by("-pk"), index)
        if change is not None:
            self.attempt(lambda: approvals.withdraw_change(change=change, actor="ann", reason="no", now=self.model.now))

    # --- the ground moves --------------------------------------------------------------------------------------------
    def change_policy(self, name):
        factories.change_policy(rules_of(name), now=self.model.now)
        self.model.policy = name

    def toggle_role(self, name, role):
        operator = self.who(name)
        grant = RoleGrant.objects.filter(operator=operator, role=role).first()
        if grant is None:
            accounts.grant_role(operator=operator, role=Role(role), target=None, actor="setup", now=self.model.now)
            self.model.roles[name].add(role)
        else:
            accounts.revoke_role(grant=grant, actor="setup", now=self.model.now)
            self.model.roles[name].discard(role)

    def toggle_active(self, name):
        active = name in self.model.inactive
        accounts.set_operator_active(operator=self.who(name), active=active, actor="setup", now=self.model.now)
        (self.model.inactive.discard if active else self.model.inactive.add)(name)

    @rule(minutes=st.sampled_from([26 * 60, 1, 5 * 60, 60, 20]), on=st.sampled_from([True, False]))
    def time_passes(self, minutes, on):
        self.model.now += timedelta(minutes=minutes)
        if on:
            self.go_on()

    def go_on(self):
        """Whatever is on its way takes its next step: the moment at which a word that is void would do harm."""
        if Canary.objects.running().exists():
            self.turn_knob(1)
            self.promote()
        for index in (0, 1):
            self.start(index)
        if ChangeRequest.objects.open().filter(kind__in=ONE_STEP).exists():
            self.apply(0, "nothing")

    # --- broken glass ------------------------------------------------------------------------------------------------
    def break_glass(self, index, by, minutes):
        self.break_change(self.pick(ChangeRequest.objects.open().order_by("-pk"), index), by, minutes)

    def break_change(self, change, by, minutes):
        if change is None:
            return
        known = self.known(change)
        unpaid = BreakGlass.objects.filter(reviewed_at=None).exists()
        bypass, _ = self.attempt(
            lambda: approvals.break_glass(
                change=change,
                actor=self.who(by),
                reason="it burns",
                incident="INC-1",
                lasts=timedelta(minutes=minutes),
                now=self.model.now,
            )
        )
        if bypass is not None:
            assert not unpaid, "glass was broken while a debt was unpaid"
            assert known.kind != "prompt.live", "what is live cannot lapse"
            known.bypasses.append(Bypass(self.model.face(known), self.model.now + timedelta(minutes=minutes)))

    def review(self, by):
        debt = BreakGlass.objects.filter(reviewed_at=None).first()
        if debt is not None:
            _done, refusal = self.attempt(
                lambda: approvals.review_break_glass(debt=debt, reviewer=self.who(by), note="seen", now=self.model.now)
            )
            assert (refusal is not None) == (by == debt.actor or by in self.changes[debt.change_id].authors)

    def beat(self):
        approvals.lapse_due(now=self.model.now)
        assert not BreakGlass.objects.filter(ended_at=None, lapses_at__lte=self.model.now).exists()
        for canary in releases.current_release().content["sections"]["canaries"].values():
            assert canary["not_after"] is None or datetime.fromisoformat(canary["not_after"]) > self.model.now

    # --- steering ----------------------------------------------------------------------------------------------------
    def expect(self, refusal, cover):
        """The gate and the model agree: refused for want of sign-offs exactly when nothing covers it."""
        if refusal is None:
            assert cover is not None, "passed a gate that nothing opens"
        elif isinstance(refusal, NotApproved | DigestRejected | PolicyMissing):
            assert cover is None, f"refused ({refusal}), though {cover}"

    @precondition(lambda self: Canary.objects.exists())
    @rule(index=ANY)
    def start(self, index):
        canary = self.pick(Canary.objects.order_by("-pk"), index)
        if canary is None:
            return
        known = self.known(canary.change)
        cover = self.model.cover(known, gates_for(known.content[3][:1]))
        _done, refusal = self.attempt(
            lambda: rollouts.start_canary(canary=canary, actor=self.who("owner"), now=self.model.now)
        )
        self.expect(refusal, cover)

    @precondition(lambda self: Canary.objects.running().exists())
    @rule(step=st.sampled_from([1, 9, -1, 1, -3]))
    def turn_knob(self, step):
        canary = Canary.objects.running().first()
        if canary is None:
            return
        last = len(canary.stages) - 1
        position = last if step == 9 and canary.position < last else canary.position + step
        known = self.known(canary.change)
        cover = self.model.cover(known, gates_for(known.content[3][: position + 1])) if step > 0 else "back"
        _done, refusal = self.attempt(
            lambda: rollouts.turn_knob(canary=canary, position=position, actor=self.who("owner"), now=self.model.now)
        )
        if 0 <= position < len(canary.stages):
            self.expect(refusal, cover)
            assert step > 0 or refusal is None, f"going back was refused: {refusal!r}"

    def promote(self):
        canary = Canary.objects.running().first()
        if canary is None:
            return
        known = self.known(canary.change)
        cover = self.model.cover(known, ("internal", "public", "live"))
        if cover == "signed":
            self.live_may_become.add(known.content[0])
        _done, refusal = self.attempt(
            lambda: rollouts.promote_canary(canary=canary, actor=self.who("owner"), now=self.model.now)
        )
        if refusal is None:
            assert cover == "signed", f"promoted on {cover}"

    def roll_back(self):
        canary = Canary.objects.running().first()
        if canary is not None:
            self.model.rejected.add(self.known(canary.change).text)
            _done, refusal = self.attempt(
                lambda: rollouts.roll_back_canary(
                    canary=canary, reason="bad", actor=self.who("owner"), now=self.model.now
                )
            )
            assert refusal is None, f"rolling back was refused: {refusal!r}"

    @precondition(lambda self: ChangeRequest.objects.open().filter(kind__in=ONE_STEP).exists())
    @rule(index=st.integers(0, 1), on=st.sampled_from(["signatures", "glass", "nothing"]))
    def apply(self, index, on):
        change = self.pick(ChangeRequest.objects.open().filter(kind__in=ONE_STEP), index)
        if on == "signatures":
            self.sign_by_everybody(change)
        elif on == "glass":
            self.break_change(change, "chris", 30)
        known = self.known(change)
        cover = self.model.cover(known, ("apply",))
        if known.kind == "routing.table":
            if cover is not None:
                self.table_may_become.add(known.text)
            if cover == "signed":
                self.ever_signed_tables.add(known.text)
        elif cover == "signed":
            self.live_may_become.add(known.content)
        _done, refusal = self.attempt(
            lambda: approvals.apply_change(change=change, actor=self.who("owner"), now=self.model.now)
        )
        self.expect(refusal, cover)

    def return_to_version(self, index):
        version = self.pick(PromptVersion.objects.order_by("-number"), index)
        _done, refusal = self.attempt(
            lambda: prompts.return_to(version=version, actor=self.who("chris"), reason="back", now=self.model.now)
        )
        allowed = version.number in self.ever_live and self.text_of(version) not in self.model.rejected
        assert (refusal is None) == (allowed or version.number == self.model.live)

    def return_to_table(self, index):
        table = self.pick(RoutingTable.objects.order_by("-number"), index)
        _done, refusal = self.attempt(
            lambda: routing_tables.return_to(version=table, actor=self.who("chris"), reason="back", now=self.model.now)
        )
        allowed = table.digest in self.ever_signed_tables and table.digest not in self.model.rejected
        assert refusal is not None or allowed or table.number == self.model.table

    def roll_back_release(self, index):
        release = self.pick(Release.objects.order_by("-revision"), index)
        self.attempt(
            lambda: releases.roll_back_to(release=release, actor=self.who("chris"), reason="back", now=self.model.now)
        )

    # --- what must hold after every step -----------------------------------------------------------------------------
    @invariant()
    def the_newest_release_carries_nothing_unapproved(self):
        new, old = releases.current_release(), self.release
        if new.revision != old.revision:
            assert new.revision > old.revision
            self.release = new
            sections, before = new.content["sections"], old.content["sections"]
            self.check_live(sections["prompts"]["support-answer"]["live"])
            self.check_table(sections["routing"], before["routing"])
            for slug, canary in sections["canaries"].items():
                self.check_canary(slug, canary, before["canaries"].get(slug))
            served = verify(new.envelope(), trusted=self.trusted, current=None)
            assert served.revision == new.revision
            assert AuditEvent.objects.get(seq=served.audit_seq).hash == served.audit_hash
        self.live_may_become, self.table_may_become = set(), set()

    def check_live(self, live):
        if live != self.model.live:
            version = PromptVersion.objects.get(number=live)
            assert live in self.live_may_become | self.ever_live, f"v{live} went live without its sign-offs"
            assert self.text_of(version) not in self.model.rejected, f"v{live} was rejected and is live anew"
            self.model.live = live
            self.ever_live.add(live)

    def check_table(self, document, before):
        if json.dumps(document, sort_keys=True) != json.dumps(before, sort_keys=True):
            table = routing_tables.active()
            assert table.document == document
            assert table.digest in self.table_may_become | self.ever_signed_tables, f"{table} was never signed"
            assert table.digest not in self.model.rejected, f"{table} was rejected and is in force anew"
        self.model.table = routing_tables.active().number

    def check_canary(self, slug, canary, before):
        change = self.known(Canary.objects.get(slug=slug).change)
        assert change.is_open, f"{slug} is served though its change is closed"
        reached, grown = canary["reach"], before is None or len(canary["reach"]) > len(before["reach"])
        signed_now = not grown and before["not_after"] is not None and canary["not_after"] is None
        if grown or signed_now:
            cover = self.model.cover(change, gates_for(reached))
            assert cover is not None, f"{slug} reached {reached[-1]['stage']} with nothing to cover it"
            assert change.text not in self.model.rejected
            if cover != "signed":
                assert canary["not_after"] is not None, f"{slug} rests on broken glass and would not lapse"
                assert datetime.fromisoformat(canary["not_after"]) <= cover
        elif before["not_after"] is not None:
            assert datetime.fromisoformat(canary["not_after"]) <= datetime.fromisoformat(before["not_after"])

    @invariant()
    def the_release_is_what_the_database_says(self):
        """Looked at whenever anything was recorded; a refusal that changed something is caught by `attempt`."""
        head = audit.head()
        if self.looked_at == head:
            return
        self.looked_at = head
        assert self.release.content["sections"] == {section.name: section.compile() for section in all_sections()}
        assert audit.verify().findings == ()


@pytest.mark.django_db
def test_no_order_of_operations_lets_an_unapproved_byte_out():
    """Whatever people try, in whatever order, each release carries only what was signed when it was granted."""
    factories.make_policy(rules_of("careful"))
    factories.make_routing()
    for name, roles in ROLES.items():
        factories.make_operator(name, *sorted(roles))
    factories.make_live_version(factories.make_prompt(), "Welcome")
    deep = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    bounds = (
        settings(suppress_health_check=list(HealthCheck))
        if deep
        else settings(max_examples=20, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    )

    run_state_machine_as_test(EveryOrder, settings=bounds)
