"""Held-out rows must not stand in prompts: looked for when a prompt version is submitted, and when a set is imported.

A hit forbids nothing: whoever approves the prompt says that they have seen it, and knows what its score is worth.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Count

from controlplane.accounts.models import Operator
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.preparations import Preparation
from controlplane.audit import operations as audit
from controlplane.evals.models import EvalSetVersion, LeakFinding, ProtectedRun, ProtectedText, Purpose
from controlplane.evals.rows import texts_in
from controlplane.evals.shingles import ByRun, Match, Protected, match, of_rows, shingles_of
from controlplane.prompts.models import PromptVersion
from controlplane.prompts.operations import GO_LIVE

# `prompt.rollout` is the kind of the app beside this one, which may not be imported; both name their candidate alike.
PROMPT_KINDS: Final = (GO_LIVE, "prompt.rollout")
MAX_KEYS_TOLD: Final = 20
_STORED_AT_ONCE: Final = 500
_RUNS_AT_ONCE: Final = 20_000
# Hundreds of thousands of them: as two arrays, which the database takes apart, and no object for each.
_STORE_RUNS: Final = "INSERT INTO evals_protectedrun (run, text_id) SELECT * FROM unnest(%s::bigint[], %s::bigint[])"


def said_by(version: PromptVersion) -> frozenset[int]:
    """The runs of words of everything in a prompt version that a model is sent."""
    return shingles_of(texts_in([version.messages, version.parameters, version.variables_schema]))


# --- a prompt version is submitted -----------------------------------------------------------------------------------
def look_in_prompt(version: PromptVersion, *, actor: Operator | str, now: datetime) -> None:
    """Look for rows of every held-out set, as it is now, in a version that was just submitted: its runs of words are
    looked up among theirs, in one query, and another if any is there. A step of that operation.
    """
    audit.require_operation()
    said = said_by(version)
    if not said:
        return
    # By itself: as one query with the texts, the planner may go from each text to each run of the prompt.
    counts = ProtectedRun.objects.filter(run__in=said).values_list("text").annotate(count=Count("run"))
    matched: dict[int, int] = dict(counts.order_by())
    if not matched:
        return
    newest = EvalSetVersion.objects.newest().filter(set__purpose=Purpose.HELD_OUT)
    texts = ProtectedText.objects.filter(version__in=newest, pk__in=matched)
    rows = texts.select_related("version__set").order_by("version_id", "pk")
    for set_version, found in groupby(rows, key=lambda text: text.version):
        matches = of_rows(Match(one.row_key, one.place, matched[one.pk], matched[one.pk] / one.runs) for one in found)
        _record(set_version, version, matches, actor=actor, now=now)


# --- a set is imported -----------------------------------------------------------------------------------------------
def look_through_prompts(by_run: ByRun, *, after: int = 0) -> tuple[list[tuple[PromptVersion, list[Match]]], int]:
    """Look for rows in every prompt version with a key above `after`; also returns the last key that was looked at, so
    that the long look can be had before an operation, and the short rest in it.

    Args:
        by_run: What is looked for: see `shingles.index`.
    """
    if not by_run:
        return [], after
    found = []
    rows = PromptVersion.objects.select_related("prompt").filter(pk__gt=after).order_by("pk")
    for version in rows.iterator(chunk_size=100):
        after = version.pk
        said = said_by(version)
        near = {id(one): one for run in said if run in by_run for one in by_run[run]}
        matches = match(near.values(), said)
        if matches:
            found.append((version, matches))
    return found, after


def store(set_version: EvalSetVersion, protected: Sequence[Protected]) -> None:
    """Keep what is to be looked for of a new version; for the import's transaction, before its operation."""
    texts = ProtectedText.objects.bulk_create(
        [
            ProtectedText(version=set_version, row_key=one.row_key, place=one.place, runs=len(one.shingles))
            for one in protected
        ],
        batch_size=_STORED_AT_ONCE,
    )
    # In their order, so that the index is written page after page.
    pairs = sorted((run, text.pk) for text, one in zip(texts, protected, strict=True) for run in one.shingles)
    with connection.cursor() as cursor:
        for first in range(0, len(pairs), _RUNS_AT_ONCE):
            some = pairs[first : first + _RUNS_AT_ONCE]
            cursor.execute(_STORE_RUNS, [[run for run, _ in some], [text for _, text in some]])
    if pairs:
        transaction.on_commit(_count_runs, robust=True)


def _count_runs() -> None:
    """Have the planner know how many runs there are: else, until the database looks by itself, it reads all of them for
    each prompt that is submitted.
    """
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE evals_protectedrun")


def record(
    set_version: EvalSetVersion,
    found: Iterable[tuple[PromptVersion, list[Match]]],
    *,
    actor: Operator | str,
    now: datetime,
) -> None:
    """Keep what was found of a new version in prompts; a step of the import's operation."""
    audit.require_operation()
    for version, matches in found:
        _record(set_version, version, matches, actor=actor, now=now)


def _record(
    set_version: EvalSetVersion,
    version: PromptVersion,
    matches: Sequence[Match],
    *,
    actor: Operator | str,
    now: datetime,
) -> None:
    if not matches:
        return
    LeakFinding.objects.bulk_create(
        LeakFinding(
            set_version=set_version,
            row_key=one.row_key,
            place=one.place,
            prompt_version=version,
            matched=one.matched,
            share=one.share,
            at=now,
        )
        for one in matches
    )
    data = {
        "set": set_version.audit_name,
        "rows": len(matches),
        "keys": [one.row_key for one in matches[:MAX_KEYS_TOLD]],
        "share": round(max(one.share for one in matches), 4),
    }
    audit.record("evals.leak_found", actor=actor, target=version, at=now, data=data)


# --- what approvals ask ----------------------------------------------------------------------------------------------
def leaks_of(change: ChangeRequest) -> list[LeakFinding]:
    """What of held-out sets, as they are now, stands in the prompt version that a change is about; one query."""
    candidate = change.content["candidate"]
    found = LeakFinding.objects.that_count().of(prompt=change.content["prompt"], number=candidate["number"])
    return list(found.select_related("set_version__set").order_by("set_version_id", "row_key"))


def to_see(change: ChangeRequest) -> list[str]:
    """As `Preparation.to_see`: a sentence for each set."""
    return list(_sentences(change))


def _sentences(change: ChangeRequest) -> Iterator[str]:
    number = change.content["candidate"]["number"]
    for set_version, found in groupby(leaks_of(change), key=lambda leak: leak.set_version):
        rows = list(found)
        most = max(rows, key=lambda leak: leak.share)
        count = "a row" if len(rows) == 1 else f"{len(rows)} rows"
        yield (
            f"{change.content['prompt']} v{number} has the words of {count} of held-out set {set_version.set.slug!r} "
            f"(most of {most.row_key!r}: {most.share:.0%} of its {most.place}), so what it scores there says nothing"
        )


def facts(change: ChangeRequest) -> Mapping[str, Any]:
    """As `Preparation.facts`: the findings that the approval was given in spite of."""
    found = [leak.pk for leak in leaks_of(change)]
    return {"leaks": found} if found else {}


def _nothing(change: ChangeRequest) -> list[str]:
    return []


def _begin(change: ChangeRequest, *, actor: Any, now: datetime) -> None:
    """Nothing is left to do: versions are looked at when they are submitted."""


PREPARATION: Final = Preparation(begin=_begin, unmet=_nothing, to_see=to_see, facts=facts)
