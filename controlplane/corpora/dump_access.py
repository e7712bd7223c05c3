"""The only way a face gets a dump. Corpora have no narrower object than the deployment."""

from typing import Literal

from controlplane.accounts.access import access
from controlplane.accounts.models import Operator
from controlplane.corpora.models import Corpus, Dump

DumpPermission = Literal["view_corpuspolicy", "drill_corpus"]
VIEW = "corpora.view_corpuspolicy"


def access_dumped(operator: Operator, slug: str, permission: DumpPermission = "view_corpuspolicy") -> Corpus:
    """The corpus whose dumps are asked for.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    corpus = Corpus.objects.filter(slug=slug).first()
    return access(operator, corpus, view=VIEW, permission=f"corpora.{permission}")


def access_dump(operator: Operator, slug: str, name: str, permission: DumpPermission = "view_corpuspolicy") -> Dump:
    """One dump of a corpus.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    dump = Dump.objects.select_related("corpus", "namespace").filter(corpus__slug=slug, name=name).first()
    return access(operator, dump, view=VIEW, permission=f"corpora.{permission}")
