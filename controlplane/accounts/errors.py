"""What can go wrong when access is changed."""


class AccessError(Exception):
    """An operation on people, tenants or credentials was refused; nothing was changed."""

    code = "access_refused"


class AlreadyRevoked(AccessError):
    """The credential was revoked before."""

    code = "already_revoked"


class AlreadyRotated(AccessError):
    """Another credential took its place before; that one is rotated instead."""

    code = "already_rotated"


class CredentialEnded(AccessError):
    """The credential's time is over; another is issued instead."""

    code = "credential_ended"


class OverlapOutOfBounds(AccessError):
    """For so long, or so short, two credentials cannot stand side by side."""

    code = "overlap_out_of_bounds"


class NameTaken(AccessError):
    """A tenant or operator of that name exists, or existed: names in the record are never reassigned."""

    code = "name_taken"


class LastAdmin(AccessError):
    """The change would leave nobody who can give access."""

    code = "last_admin"


class RoleDoesNotFit(AccessError):
    """The role gives nothing on that kind of object, so it cannot be granted there."""

    code = "role_does_not_fit"


class AdminExists(AccessError):
    """The deployment has somebody who can give access."""

    code = "admin_exists"
