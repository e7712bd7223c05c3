"""The SQL by which a PostgreSQL source tells of its own changes: an outbox, written in the writers' transactions.

`outbox_sql` prints what the owner of a table runs there once. Every revision is drawn from one sequence while the row's
lock is held, by whoever changes the row and by whoever fills in old rows alike; so the greater revision of a key is
always the later state of its row, whatever order the outbox is read in. Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.retrieval.policy import MAX_SLUG_CHARACTERS

CHANNEL: Final = "ballast_outbox"
BUCKETS: Final = 256
_SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


class InvalidOutbox(ValueError):
    """No outbox can be made of what was asked for."""


def bucket_sql(key: str) -> str:
    """An SQL expression for the bucket that a key is in, 0..BUCKETS - 1; the same in every server."""
    return f"get_byte(sha256(convert_to({key}, 'UTF8')), 0)"


def digest_sql(key: str, content: str, metadata: str) -> str:
    """An SQL expression for what a document says, from SQL expressions of text, text and jsonb. Both ends compute it,
    so the source needs no canonical JSON: metadata from an outbox are texts, which look the same in every server.
    """
    return f"sha256(convert_to(concat_ws(E'\\x1f', {key}, {content}, {metadata}::text), 'UTF8'))"


def sum_sql(digest: str) -> str:
    """An SQL aggregate over digests that does not depend on their order."""
    return f"sum(('x' || encode(substring({digest} FROM 1 FOR 7), 'hex'))::bit(56)::bigint)"


def function_of(verb: str, corpus: str) -> str:
    """The name of what the outbox of a corpus installs: document, write, empty, prefix, backfill, backfill_keys,
    ranges, listing.
    """
    return f"ballast_{verb}_{corpus}"


@dataclass(frozen=True, slots=True)
class Outbox:
    """A table whose rows are documents of a corpus.

    Attributes:
        table: With or without its schema, such as 'public.articles'.
        key: The column that names a document. It must be unique by itself.
        content: The columns that are indexed, one below the other.
        metadata: Those that are cited beside it, as text.
        prefix: Before every key, where the corpus has other sources too.
        schema: Where the outbox is made, and the table is, if it does not say.
    """

    corpus: str
    table: str
    key: str
    content: Sequence[str]
    metadata: Sequence[str] = ()
    prefix: str = ""
    schema: str = "public"

    def __post_init__(self) -> None:
        if not _SLUG.match(self.corpus) or len(self.corpus) > MAX_SLUG_CHARACTERS:
            raise InvalidOutbox(f"{self.corpus!r} is no name of a corpus: lower-case letters, digits and hyphens")
        if not self.content:
            raise InvalidOutbox("name at least one column of content; documents without words cannot be found")
        if self.table.count(".") > 1:
            raise InvalidOutbox(f"{self.table!r} is no table: name it as 'table' or 'schema.table'")
        for name in (*self.table.split("."), self.key, *self.content, *self.metadata, self.schema):
            if not name or not name.isprintable() or "$" in name:
                raise InvalidOutbox(f"{name!r} is no name of a table, schema or column, or one with a $ in it")
        if "$" in self.prefix or not self.prefix.isprintable():
            raise InvalidOutbox(f"the prefix {self.prefix!r} holds a $, or what cannot be printed")

    @property
    def qualified_table(self) -> str:
        """Quoted, with its schema."""
        schema, _, table = self.table.rpartition(".")
        return f"{quoted(schema or self.schema)}.{quoted(table)}"


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL has it, whatever `standard_conforming_strings` says."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'" if "\\" not in text else " E'" + doubled.replace("\\", "\\\\") + "'"


def outbox_sql(outbox: Outbox) -> str:
    """What the owner of the table runs in the source's database, such as with `psql -f`; again, it changes nothing.

    Needs PostgreSQL 13 or newer.
    """
    row = "r"
    pairs = ", ".join(f"{literal(name)}, {row}.{quoted(name)}::text" for name in outbox.metadata)
    parts = ", ".join(f"nullif({row}.{quoted(name)}::text, '')" for name in outbox.content)
    names = {
        verb: f"{quoted(outbox.schema)}.{quoted(function_of(verb, outbox.corpus))}"
        for verb in ("document", "write", "empty", "prefix", "backfill", "backfill_keys", "ranges", "listing")
    }
    return _SQL.format(
        **{verb: name for verb, name in names.items() if verb != "prefix"},
        prefix_function=names["prefix"],
        corpus=literal(outbox.corpus),
        comment=f"{outbox.qualified_table} for the corpus {outbox.corpus}",
        table=outbox.qualified_table,
        table_name=literal(outbox.qualified_table),
        write_name=literal(names["write"] + "()"),
        key=quoted(outbox.key),
        key_name=literal(outbox.key),
        prefix=literal(outbox.prefix),
        prefix_length=len(outbox.prefix),
        content=f"concat_ws(E'\\n\\n', {parts})",
        metadata=f"jsonb_strip_nulls(jsonb_build_object({pairs}))",
        trigger=quoted(f"ballast_{outbox.corpus}"),
        truncate_trigger=quoted(f"ballast_empty_{outbox.corpus}"),
        outbox=f"{quoted(outbox.schema)}.ballast_outbox",
        rev=f"{quoted(outbox.schema)}.ballast_rev",
        rev_name=literal(f"{quoted(outbox.schema)}.ballast_rev"),
        raise_rev=f"{quoted(outbox.schema)}.ballast_raise_rev",
        schema=quoted(outbox.schema),
        channel=literal(CHANNEL),
        bucket=bucket_sql("d.source_key"),
        digest=digest_sql("d.source_key", "d.content", "d.metadata"),
    )


# Functions that run with their owner's rights see no names but those that they spell out, and render times alike
# whatever the session has set: the same row must always give the same text.
_SQL: Final = """\
-- Tells Ballast of every change of the table {comment}.
-- Run it in the source's database as the table's owner, e.g. psql -v ON_ERROR_STOP=1 -f this.sql; running it again
-- changes nothing. It takes a lock that waits for writers and holds up others, for moments.
BEGIN;
SET LOCAL lock_timeout = '10s';

-- The changes that Ballast has not taken yet: it deletes what it took. There is no constraint on what they say, since
-- none of them may make a writer's transaction fail.
CREATE TABLE IF NOT EXISTS {outbox} (
    id bigserial PRIMARY KEY,
    corpus text NOT NULL,
    source_key text,
    source_rev bigint,
    op text,
    content text,
    metadata jsonb,
    event_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS ballast_outbox_in_order ON {outbox} (corpus, id);
CREATE INDEX IF NOT EXISTS ballast_outbox_by_key ON {outbox} (corpus, source_key);
-- One clock for all rows: of two revisions of a row the greater is the later.
CREATE SEQUENCE IF NOT EXISTS {rev};

DO $guard$
BEGIN
    -- Else two rows of one key could change at a time, and nobody would know which of the revisions is the later.
    IF NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = {table_name}::regclass AND a.attname = {key_name} AND i.indnkeyatts = 1
            AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
    ) THEN
        RAISE EXCEPTION 'column % of % has no unique index of its own, checked at once', {key_name}, {table_name};
    END IF;
    -- Its functions are replaced below, and would be called with the rows of a table that they do not know.
    IF EXISTS (
        SELECT FROM pg_trigger
        WHERE tgfoid = to_regprocedure({write_name}) AND tgrelid <> {table_name}::regclass AND tgparentid = 0
    ) THEN
        RAISE EXCEPTION 'the corpus % is told of another table already; drop its triggers first', {corpus};
    END IF;
END
$guard$;

-- What a row says, as Ballast indexes it.
CREATE OR REPLACE FUNCTION {document}(
    r {table}, OUT source_key text, OUT content text, OUT metadata jsonb
) LANGUAGE sql STABLE AS $body$
    SELECT {prefix} || r.{key}::text, {content}, {metadata}
$body$;

-- What is before every key.
CREATE OR REPLACE FUNCTION {prefix_function}() RETURNS text LANGUAGE sql IMMUTABLE AS $body$
    SELECT {prefix}::text
$body$;

-- Writes a change in the transaction that makes it. It runs after the row was written, so the row's lock is held, and
-- that of its key in the unique index: whoever changes, deletes or makes this key next draws his revision later.
CREATE OR REPLACE FUNCTION {write}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
AS $body$
DECLARE
    old_key text;
    old_content text;
    old_metadata jsonb;
    new_key text;
    new_content text;
    new_metadata jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        SELECT d.source_key, d.content, d.metadata INTO old_key, old_content, old_metadata FROM {document}(OLD) d;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT d.source_key, d.content, d.metadata INTO new_key, new_content, new_metadata FROM {document}(NEW) d;
    END IF;
    IF (old_key, old_content, old_metadata) IS NOT DISTINCT FROM (new_key, new_content, new_metadata) THEN
        RETURN NULL;  -- other columns changed
    END IF;
    -- A row whose key changes is one document less, and one more.
    IF old_key IS NOT NULL AND old_key IS DISTINCT FROM new_key THEN
        INSERT INTO {outbox} (corpus, source_key, source_rev, op, content, metadata)
        VALUES ({corpus}, old_key, nextval({rev_name}), 'delete', '', '{{}}');
    END IF;
    IF new_key IS NOT NULL THEN
        INSERT INTO {outbox} (corpus, source_key, source_rev, op, content, metadata)
        VALUES ({corpus}, new_key, nextval({rev_name}), 'upsert', new_content, new_metadata);
    END IF;
    PERFORM pg_notify({channel}, {corpus});
    RETURN NULL;
END
$body$;

-- Nobody else has a lock on the table when this runs. A transaction of an isolation above READ COMMITTED may not see
-- every row that it empties away: reconciling finds those.
CREATE OR REPLACE FUNCTION {empty}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
AS $body$
BEGIN
    INSERT INTO {outbox} (corpus, source_key, source_rev, op, content, metadata)
    SELECT {corpus}, d.source_key, nextval({rev_name}), 'delete', '', '{{}}'
    FROM {table} ballast_row CROSS JOIN LATERAL {document}(ballast_row) d WHERE d.source_key IS NOT NULL;
    PERFORM pg_notify({channel}, {corpus});
    RETURN NULL;
END
$body$;

DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION {write}();
DROP TRIGGER IF EXISTS {truncate_trigger} ON {table};
CREATE TRIGGER {truncate_trigger} BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {empty}();

-- Tells of some rows as they are now, in the order of their keys after `after_key`; returns the key it came to, or null
-- when there is none left. Call it until then, each time in a transaction of its own; several may, for other ranges.
--
-- It cannot overtake a live change: rows are locked before their revision is drawn. Whoever is changing one is waited
-- for, and what he wrote is what is read; whoever changes one next waits for us, and draws a later revision. Who waits
-- long gives way (lock_not_available) before anybody finds a deadlock, and tries again with fewer rows.
CREATE OR REPLACE FUNCTION {backfill}(after_key text, row_limit integer, until_key text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
SET lock_timeout = '500ms'
AS $body$
#variable_conflict use_variable
DECLARE
    low {table}.{key}%TYPE := after_key;
    high {table}.{key}%TYPE := until_key;
    reached {table}.{key}%TYPE;
BEGIN
    -- Before any lock: a row whose key changes while it is waited for must not carry us past others.
    SELECT s.{key} INTO reached FROM (
        SELECT t.{key} FROM {table} t
        WHERE t.{key} IS NOT NULL AND (low IS NULL OR t.{key} > low) AND (high IS NULL OR t.{key} <= high)
        ORDER BY t.{key} LIMIT row_limit
    ) s ORDER BY s.{key} DESC LIMIT 1;
    IF reached IS NULL THEN
        RETURN NULL;
    END IF;
    WITH locked AS MATERIALIZED (
        SELECT ballast_row FROM {table} ballast_row
        WHERE (low IS NULL OR ballast_row.{key} > low) AND ballast_row.{key} <= reached
        ORDER BY ballast_row.{key} FOR SHARE
    )
    INSERT INTO {outbox} (corpus, source_key, source_rev, op, content, metadata)
    SELECT {corpus}, d.source_key, nextval({rev_name}), 'upsert', d.content, d.metadata
    FROM locked l CROSS JOIN LATERAL {document}(l.ballast_row) d;
    PERFORM pg_notify({channel}, {corpus});
    RETURN reached::text;
END
$body$;

-- The same for single documents, by the keys that Ballast has; returns how many there are.
CREATE OR REPLACE FUNCTION {backfill_keys}(keys text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
SET lock_timeout = '500ms'
AS $body$
#variable_conflict use_variable
DECLARE
    one {table}.{key}%TYPE;
    told text;
    written bigint := 0;
    rows_found bigint;
BEGIN
    -- In one order, so that two of these never wait for each other in a circle.
    FOR told IN SELECT k FROM unnest(keys) k ORDER BY k LOOP
        one := substr(told, {prefix_length} + 1);
        WITH locked AS MATERIALIZED (
            SELECT ballast_row FROM {table} ballast_row WHERE ballast_row.{key} = one FOR SHARE
        )
        INSERT INTO {outbox} (corpus, source_key, source_rev, op, content, metadata)
        SELECT {corpus}, d.source_key, nextval({rev_name}), 'upsert', d.content, d.metadata
        FROM locked l CROSS JOIN LATERAL {document}(l.ballast_row) d;
        GET DIAGNOSTICS rows_found = ROW_COUNT;
        written := written + rows_found;
    END LOOP;
    PERFORM pg_notify({channel}, {corpus});
    RETURN written;
END
$body$;

-- The table in ranges of about the same number of rows, for backfills beside each other: the last key of each.
CREATE OR REPLACE FUNCTION {ranges}(parts integer) RETURNS TABLE (until_key text, row_count bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    SELECT DISTINCT ON (s.part) s.{key}::text, count(*) OVER (PARTITION BY s.part)
    FROM (SELECT t.{key}, ntile($1) OVER (ORDER BY t.{key}) AS part FROM {table} t WHERE t.{key} IS NOT NULL) s
    ORDER BY s.part, s.{key} DESC
$body$;

-- What the table holds, for comparing: a digest of each document, and whether a change of it waits in the outbox.
CREATE OR REPLACE FUNCTION {listing}()
RETURNS TABLE (source_key text, bucket integer, digest bytea, is_waiting boolean) LANGUAGE sql STABLE AS $body$
    SELECT d.source_key, {bucket},
        {digest},
        EXISTS (SELECT FROM {outbox} o WHERE o.corpus = {corpus} AND o.source_key = d.source_key)
    FROM {table} ballast_row CROSS JOIN LATERAL {document}(ballast_row) d WHERE d.source_key IS NOT NULL
$body$;

-- After the database was restored from a copy its clock may stand behind what Ballast has seen of it, and every change
-- would look old. Moves it far enough that nobody who draws a revision meanwhile is overtaken.
CREATE OR REPLACE FUNCTION {raise_rev}(at_least bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    stands bigint;
    was_drawn boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ballast_raise_rev'));
    SELECT last_value, is_called INTO stands, was_drawn FROM {rev};
    IF stands < at_least OR (stands = at_least AND NOT was_drawn) THEN
        stands := setval({rev_name}, at_least + 1000000);
    END IF;
    RETURN stands;
END
$body$;

REVOKE ALL ON FUNCTION {backfill}(text, integer, text), {backfill_keys}(text[]), {ranges}(integer), {raise_rev}(bigint)
    FROM PUBLIC;
-- For the role that Ballast comes as:
--   GRANT USAGE ON SCHEMA {schema} TO ballast;
--   GRANT SELECT, UPDATE, DELETE ON {outbox} TO ballast;
--   GRANT SELECT ON {table}, {rev} TO ballast;
--   GRANT EXECUTE ON FUNCTION {backfill}(text, integer, text),
--       {backfill_keys}(text[]), {ranges}(integer),
--       {raise_rev}(bigint) TO ballast;
COMMIT;
"""
