"""Why something about corpora was refused."""


class CorpusError(Exception):
    """An operation on corpora was refused; nothing was changed."""

    code = "corpus_refused"


class InvalidCorpora(CorpusError):
    """The document is no corpus policy; the message names the JSON path."""

    code = "invalid_corpora"


class SameCorpora(CorpusError):
    """The document is the policy in force."""

    code = "same_content"


class UnknownCorpus(CorpusError):
    """The policy in force has no such corpus, or there is no policy."""

    code = "unknown_corpus"


class NeverInForce(CorpusError):
    """The policy never was in force with its sign-offs, so going back to it is no roll-back."""

    code = "never_in_force"


class AlteredCorpora(CorpusError):
    """The policy's document is not what its digest says: somebody wrote to the table by hand."""

    code = "altered_corpora"


class NamespaceNotReady(CorpusError):
    """Nothing is served from a namespace that is being built, is a drill's, or was dropped."""

    code = "namespace_not_ready"


class SnapshotGone(CorpusError):
    """The snapshot is older than what is kept, or of a namespace that was dropped."""

    code = "snapshot_gone"
