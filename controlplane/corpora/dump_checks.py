"""Whether a dump is what was written and signed, wherever its folder is now. Needs no database."""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.corpora.bulk import Progress, quiet
from controlplane.corpora.errors import VaultUnavailable
from controlplane.corpora.vault import Vault
from controlplane.releases.trust import keys_of_the_past
from dataplane.retrieval.dump_format import (
    COLUMNS,
    MANIFEST,
    Block,
    DumpFlawed,
    Manifest,
    check_names,
    checked_blocks,
    unseal,
)

TrustedKeys = Mapping[str, Ed25519PublicKey]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found.

    Attributes:
        blocks: That were read and are as they were written.
        flaw: What is wrong, the name of the block first; None: nothing is.
        root: Of the dump; empty where its manifest cannot be believed.
    """

    blocks: int
    flaw: str | None
    root: str = ""


def trusted_keys() -> TrustedKeys:
    """By what this deployment believes its dumps: every key that signs here or did, unless it was compromised.

    Raises:
        VaultUnavailable: there is neither.
    """
    trusted = keys_of_the_past()
    if not trusted:
        raise VaultUnavailable(
            "no dump can be believed: neither BALLAST_TRUSTED_KEYS_FILE nor BALLAST_SIGNING_KEY_FILE can be read"
        )
    return trusted


def read_manifest(kept: Vault, name: str, *, trusted: TrustedKeys, root: str | None = None) -> tuple[Manifest, str]:
    """The manifest of a dump and its root, when it can be believed and the folder holds what it names.

    Args:
        root: As `dump_format.unseal`.
    Raises:
        DumpFlawed: naming the block that is missing or too much, or the manifest.
        VaultUnavailable: as `Vault.read`.
    """
    try:
        data = kept.read(name, MANIFEST)
    except FileNotFoundError as exc:
        raise DumpFlawed(MANIFEST, "it is not there: the dump was never finished") from exc
    manifest, found = unseal(data, name=name, trusted=trusted, root=root)
    check_names(manifest, kept.names(name))
    return manifest, found


def read_block(kept: Vault, name: str, block: Block) -> bytes:
    """A block's bytes, and at most one more than it should have.

    Raises:
        DumpFlawed: it is not there.
        VaultUnavailable: as `Vault.read`.
    """
    try:
        return kept.read(name, block.name, limit=block.bytes + 1)
    except FileNotFoundError as exc:
        raise DumpFlawed(block.name, "it is not there") from exc


def verify_folder(
    kept: Vault, name: str, *, trusted: TrustedKeys, root: str | None = None, progress: Progress = quiet
) -> Verified:
    """Read every byte of a dump, one block at a time.

    Args:
        progress: Told of rows.
    Raises:
        VaultUnavailable: it cannot be read now, which says nothing about it.
    """
    good = rows = 0
    found = ""
    try:
        manifest, found = read_manifest(kept, name, trusted=trusted, root=root)
        total = manifest.rows
        for stream in COLUMNS:
            for block, _ in checked_blocks(manifest, stream, lambda block: read_block(kept, name, block)):
                good, rows = good + 1, rows + block.rows
                progress(rows, total)
    except DumpFlawed as flaw:
        return Verified(good, str(flaw), found)
    return Verified(good, None, found)
