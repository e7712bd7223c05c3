"""The only way a face gets a corpus. What is held on corpora is held on all of them."""

from typing import Literal

from controlplane.accounts.access import access
from controlplane.accounts.models import Operator
from controlplane.corpora.models import Corpus

VIEW = "corpora.view_corpuspolicy"
CorpusPermission = Literal["view_corpuspolicy", "feed_corpus", "operate_corpus", "drill_corpus"]


def access_corpus(operator: Operator, slug: str, permission: CorpusPermission = "view_corpuspolicy") -> Corpus:
    """One corpus, whether the policy in force still names it or not.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    corpus = Corpus.objects.select_related("live_namespace").filter(slug=slug).first()
    return access(operator, corpus, view=VIEW, permission=f"corpora.{permission}")
