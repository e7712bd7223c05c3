"""The only way a face gets a corpus, its dumps and drills, a corpus policy, or what is promised. All permissions on
them are held on everything or not at all; who may look at the policy may look at all of it.
"""

from typing import Final, Literal

from django.db.models import QuerySet

from controlplane.accounts.access import access, require
from controlplane.accounts.models import Operator
from controlplane.corpora.models import Corpus, Dump, Namespace, RecoveryDrill
from controlplane.corpora.policies import corpus_policies
from controlplane.versioned.access import VersionAccess
from dataplane.retrieval.policy import Corpus as Promised

CorpusPermission = Literal["view_corpuspolicy", "propose_corpora", "operate_corpus", "feed_corpus", "drill_corpus"]
VIEW: Final = "corpora.view_corpuspolicy"


policy_access: Final = VersionAccess(corpus_policies, view=VIEW, propose="corpora.propose_corpora")


def access_promised(operator: Operator, slug: str, permission: CorpusPermission = "view_corpuspolicy") -> Promised:
    """What the policy in force promises of one corpus.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`; Http404 also when no policy is in force, or it does not
            name the corpus.
    """
    return policy_access.entry(operator, slug, f"corpora.{permission}")


def access_corpus(operator: Operator, slug: str, permission: CorpusPermission = "view_corpuspolicy") -> Corpus:
    """One corpus, with the namespaces that it is served from and pinned to.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    corpus = Corpus.objects.select_related("live_namespace", "pinned_namespace").filter(slug=slug).first()
    return access(operator, corpus, view=VIEW, permission=f"corpora.{permission}")


def access_namespace(
    operator: Operator, slug: str, number: int, permission: CorpusPermission = "view_corpuspolicy"
) -> Namespace:
    """One namespace of a corpus, with the corpus.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    found = Namespace.objects.select_related("corpus").filter(corpus__slug=slug, number=number).first()
    return access(operator, found, view=VIEW, permission=f"corpora.{permission}")


def access_dump(operator: Operator, slug: str, name: str, permission: CorpusPermission = "view_corpuspolicy") -> Dump:
    """One dump of a corpus.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    dump = Dump.objects.select_related("corpus", "namespace").filter(corpus__slug=slug, name=name).first()
    return access(operator, dump, view=VIEW, permission=f"corpora.{permission}")


def access_recovery_drill(
    operator: Operator, pk: int, permission: CorpusPermission = "view_corpuspolicy"
) -> RecoveryDrill:
    """One drill, with its corpus and what it restored.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    found = RecoveryDrill.objects.select_related("corpus__live_namespace", "namespace", "dump").filter(pk=pk).first()
    return access(operator, found, view=VIEW, permission=f"corpora.{permission}")


def visible_corpora(operator: Operator) -> QuerySet[Corpus]:
    """Every corpus, those that no policy names any more too.

    Raises:
        PermissionDenied: the operator may not look at corpora.
    """
    require(operator, VIEW)
    return Corpus.objects.select_related("live_namespace", "pinned_namespace")
