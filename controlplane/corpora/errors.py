"""Why something about corpora was refused."""

from collections.abc import Iterable


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


class InvalidThreshold(CorpusError):
    """No such number, or one that a corpus cannot do without."""

    code = "invalid_threshold"


class AlreadyBuilding(CorpusError):
    """Another namespace of the corpus is being built; two at once would only slow each other down."""

    code = "already_building"


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


class InvalidChanges(CorpusError):
    """Changes cannot be taken in as they are; `problems` names each: which one, what of it, and why."""

    code = "invalid_changes"

    def __init__(self, problems: Iterable[tuple[int, str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"changes[{index}].{member}: {what}" for index, member, what in self.problems[:10]))


class TooManyChanges(CorpusError):
    """One batch has more changes than are taken in at once."""

    code = "too_many_changes"


class NotEmbedded(CorpusError):
    """Texts were not embedded. `may_be_the_texts`: somebody read them and would not; otherwise it is nobody's who wrote
    them: the gateway is away, or another model answered than was promised.
    """

    code = "not_embedded"

    def __init__(self, message: str, *, why: str, may_be_the_texts: bool = False) -> None:
        super().__init__(message)
        self.why = why
        self.may_be_the_texts = may_be_the_texts


class MarkNotProven(CorpusError):
    """The low-water mark cannot be raised so far: nobody has seen that every change at or below it is here."""

    code = "mark_not_proven"


class VectorsNowhere(CorpusError, LookupError):
    """Nobody here keeps vectors under the name that a namespace or the policy has for them."""

    code = "vectors_nowhere"


class VectorsUnavailable(CorpusError):
    """The store that keeps vectors beside PostgreSQL cannot be asked now, or has lost what it was given."""

    code = "vectors_unavailable"


class VaultUnavailable(CorpusError):
    """The store of dumps, or an object in it, cannot be had now."""

    code = "vault_unavailable"


class VaultTaken(CorpusError):
    """Something else lies under the name already, and is not overwritten."""

    code = "vault_taken"


class DumpRetained(CorpusError):
    """Nobody may delete the dump yet."""

    code = "dump_retained"


class DumpRefused(CorpusError):
    """The dump is not whole, or not what was signed; nothing of it is used. The message names the block."""

    code = "dump_refused"


class DumpDoesNotFit(CorpusError):
    """The dump was made by another model or chunker, for another corpus, or there is something in its place."""

    code = "dump_does_not_fit"


class DumpFailed(CorpusError):
    """The dump could not be made; what is in the store of it has no manifest, and nobody takes it for a dump."""

    code = "dump_failed"


class UnknownScenario(CorpusError):
    """No drill has a scenario of this name."""

    code = "unknown_scenario"


class DrillUnderWay(CorpusError):
    """Another drill of the corpus has not ended; what two measure at a time says nothing of either."""

    code = "drill_under_way"


class DrillNotPossible(CorpusError):
    """What the scenario needs is not there: a namespace that serves, or dumps enough."""

    code = "drill_not_possible"


class WordsNotTyped(CorpusError):
    """A drill on what serves needs its words typed, by each of the two people."""

    code = "words_not_typed"


class SamePerson(CorpusError):
    """Who asked for a drill on what serves cannot confirm it; somebody else has to."""

    code = "same_person"


class DrillOver(CorpusError):
    """The drill has ended, or is not where this could happen to it."""

    code = "drill_over"
