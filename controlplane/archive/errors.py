"""Why the audit record was not exported."""


class ArchiveError(Exception):
    """Nothing was exported; what was is as it was."""

    code = "archive_error"


class ArchiveConflict(ArchiveError):
    """The store has a segment that is not what the record says: somebody wrote there, or changed the record."""

    code = "archive_conflict"
