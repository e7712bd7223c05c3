"""The configuration as one YAML document: its shape, how it is read, how it is written. No query.

Shape:
    schema: 1
    tenants: {slug: {name, tier, residency: [zone], region, is_internal, log_content, idempotency_hours}}
    copy: {slug: {kind, title, description, regulated, live: null or {default_locale, locales}}}; locales as in
          `dataplane.signed_copy.parse_copy`
    routing: the release's section 'routing': {providers, accounts, lanes, routes, breakers?, retries?, probes?,
        quotas?, streams?, repairs?, validators?, fallbacks?}
    ladder: the release's section 'ladder': {surface: {title, routes, regulated, eta_seconds, emergency_minutes, rungs,
        triggers, pace, promises}}
    corpora: the release's section 'corpora': {corpus: {title, tenants, residency, store, revisions, embedding,
        chunking, freshness, answering, recovery, sources}}
    approval_policy: [rule]; see fixtures/approval_policy.yaml
    prompts: {slug: {title, description, route, live: null or
              {change_class, messages: [{role, content}], variables_schema, parameters, sample_variables}}}
A section that is left out is left alone. No section carries a secret: accounts name theirs by reference, and API keys
stay where they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from controlplane.accounts.models import Tier
from controlplane.ladder.models import CopyKind
from controlplane.prompts.models import ChangeClass
from dataplane.access import IDEMPOTENCY_HOURS
from dataplane.documents import MalformedRelease, Node, child_path
from dataplane.release import canonical
from dataplane.routing import POLICY_PARTS

SCHEMA = 1
HEADER = """\
# Configuration of a Ballast deployment, written by `manage.py export_config`.
# `manage.py import_config FILE` shows what differs; with --apply it opens change requests, which people then sign.
# A section that is left out, and a prompt, tenant or piece of copy that is not listed, is left as it is.
"""
COMMENTS = {
    "tenants": "Customers: tier, residency zones that their bytes may reach ([]: anywhere), home region. No keys.",
    "copy": "What users read when no model can answer, each with the words that are live. Others are signed first.",
    "routing": "Where requests may go: the table in force. Secrets by reference: env:NAME or file:/path.",
    "ladder": "What users get when capacity runs short, by surface: the policy in force. Its words are copy.",
    "corpora": "What answers may be made from, and what is promised of it: the policy in force. Secrets by reference.",
    "approval_policy": "Who must sign what. First match wins; a gate that a rule does not list asks for nothing.",
    "prompts": "Each prompt with the version that is live. Other content becomes a new version and its canary.",
}
TENANT_FIELDS = ("name", "tier", "residency", "region", "is_internal", "log_content", "idempotency_hours")
VERSION_FIELDS = ("change_class", "messages", "variables_schema", "parameters", "sample_variables")
COPY_FIELDS = ("kind", "title", "description", "regulated")
_ANSWER_FIELDS = ("questions", "text", "json")
_RULE_FIELDS = ("name", "kind", "when", "gates", "valid_hours")


class MalformedConfiguration(Exception):
    """The file is not a configuration; the message begins with the place."""


# A configuration of a thousand prompts has a few million.
MAX_CHARACTERS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """A prompt as the file wants it. `live` None: nothing is wanted live."""

    title: str
    description: str
    route: str
    live: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CopyEntry:
    """A piece of copy as the file wants it. `live` is a version's document; None: nothing is wanted live."""

    kind: str
    title: str
    description: str
    regulated: bool
    live: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says. None: it does not speak of the section."""

    tenants: Mapping[str, Mapping[str, Any]] | None = None
    routing: Mapping[str, Any] | None = None
    approval_policy: list[Any] | None = None
    prompts: Mapping[str, PromptEntry] | None = field(default=None)
    copy: Mapping[str, CopyEntry] | None = None
    ladder: Mapping[str, Any] | None = None
    corpora: Mapping[str, Any] | None = None


# --- reading ---------------------------------------------------------------------------------------------------------
def read_configuration(text: str) -> Configuration:
    """Read a file's text.

    Raises:
        MalformedConfiguration: no YAML, an unknown or missing key, a value that JSON has no word for.
    """
    if len(text) > MAX_CHARACTERS:
        raise MalformedConfiguration(f"the file has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that also refuses duplicate keys and aliases
    except yaml.YAMLError as exc:
        raise MalformedConfiguration(_place(exc)) from exc
    except RecursionError as exc:
        raise MalformedConfiguration("the file is nested too deep") from exc
    try:
        _require_json(value, "$")
        return _parse(Node(value, "$"))
    except MalformedRelease as exc:
        raise MalformedConfiguration(f"{exc.path.removeprefix('$').removeprefix('.') or 'file'}: {exc.fact}") from exc


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _parse(root: Node) -> Configuration:
    sections = root.members("schema", optional=COMMENTS)
    if sections["schema"].integer() != SCHEMA:
        sections["schema"].refuse(f"this build reads schema {SCHEMA}, not {sections['schema'].value}")
    sections.pop("schema")
    read: dict[str, Any] = {}
    if tenants := sections.get("tenants"):
        read["tenants"] = {slug: _parse_tenant(node) for slug, node in tenants.slugged_entries()}
    if copy := sections.get("copy"):
        read["copy"] = {slug: _parse_copy(node) for slug, node in copy.slugged_entries()}
    if routing := sections.get("routing"):
        routing.members("providers", "accounts", "lanes", "routes", optional=POLICY_PARTS)
        read["routing"] = routing.value
    if ladder := sections.get("ladder"):
        read["ladder"] = {slug: node.value for slug, node in ladder.slugged_entries()}
    if corpora := sections.get("corpora"):
        read["corpora"] = {slug: node.value for slug, node in corpora.slugged_entries()}
    if policy := sections.get("approval_policy"):
        read["approval_policy"] = [node.value for node in policy.items(minimum=1)]
    if prompts := sections.get("prompts"):
        read["prompts"] = {slug: _parse_prompt(node) for slug, node in prompts.slugged_entries()}
    return Configuration(**read)


def _parse_tenant(node: Node) -> dict[str, Any]:
    members = node.members("name", "tier", optional=TENANT_FIELDS)
    read: dict[str, Any] = {"name": members["name"].text(), "tier": members["tier"].one_of(Tier.values)}
    read["residency"] = list(members["residency"].texts()) if "residency" in members else []
    read["region"] = members["region"].text(empty=True) if "region" in members else ""
    for name in ("is_internal", "log_content"):
        read[name] = members[name].flag() if name in members else False
    least, most = IDEMPOTENCY_HOURS
    hours = members.get("idempotency_hours")
    read["idempotency_hours"] = least if hours is None else hours.integer(minimum=least, maximum=most)
    return read


def _parse_copy(node: Node) -> CopyEntry:
    members = node.members("kind", "title", "live", optional=("description", "regulated"))
    kind, live = members["kind"].one_of(CopyKind.values), None
    if members["live"].value is not None:
        words = members["live"].members("default_locale", "locales")
        live = {"kind": kind, **{name: word.value for name, word in words.items()}}
    return CopyEntry(
        kind=kind,
        title=members["title"].text(),
        description=members["description"].text(empty=True) if "description" in members else "",
        regulated=members["regulated"].flag() if "regulated" in members else False,
        live=live,
    )


def _parse_prompt(node: Node) -> PromptEntry:
    members = node.members("title", "route", "live", optional=("description",))
    live = members["live"]
    return PromptEntry(
        title=members["title"].text(),
        description=members["description"].text(empty=True) if "description" in members else "",
        route=members["route"].text(),
        live=None if live.value is None else _parse_version(live),
    )


def _parse_version(node: Node) -> dict[str, Any]:
    members = node.members("messages", "change_class", optional=("variables_schema", "parameters", "sample_variables"))
    version: dict[str, Any] = {
        "change_class": members["change_class"].one_of(ChangeClass.values),
        "messages": [message.value for message in members["messages"].items(minimum=1)],
    }
    for name in ("variables_schema", "parameters", "sample_variables"):
        version[name] = {key: item.value for key, item in members[name].entries()} if name in members else {}
    return version


def _require_json(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise MalformedRelease(path, f"key {key!r} is not a text; put it in quotes")
            _require_json(item, child_path(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_json(item, f"{path}[{index}]")
    else:
        try:
            canonical(value)
        except Exception as exc:  # whatever the writer says about a date, a set, bytes or a number too large for JSON
            raise MalformedRelease(path, f"{value!r} is nothing that JSON knows; put it in quotes") from exc


class _Loader(yaml.SafeLoader):
    """YAML's own words, without its silence about a key that is given twice, and without aliases: nine of them in nine
    lines are a billion values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs forgot its type
            raise yaml.MarkedYAMLError(
                problem="aliases are not taken here; write it out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


# --- writing ---------------------------------------------------------------------------------------------------------
def write_configuration(configuration: Configuration) -> str:
    """The file's text: the same configuration always gives the same bytes, and reading it gives it back."""
    parts = [HEADER, f"schema: {SCHEMA}\n"]
    for name, value in _sections(configuration).items():
        if value is not None:
            parts.append(f"\n# {COMMENTS[name]}\n{_dump({name: value})}")
    return "".join(parts)


def _sections(configuration: Configuration) -> dict[str, Any]:
    prompts = configuration.prompts
    copy = configuration.copy
    policy = configuration.approval_policy
    return {
        "tenants": _sorted_entries(configuration.tenants, TENANT_FIELDS),
        "copy": None if copy is None else {slug: _copy(copy[slug]) for slug in sorted(copy)},
        "routing": None if configuration.routing is None else _in_order(configuration.routing, _ROUTING_FIELDS),
        "ladder": _sorted_entries(configuration.ladder, _SURFACE_FIELDS),
        "corpora": _sorted_entries(configuration.corpora, _CORPUS_FIELDS),
        "approval_policy": None if policy is None else [_in_order(rule, _RULE_FIELDS) for rule in policy],
        "prompts": None if prompts is None else {slug: _prompt(prompts[slug]) for slug in sorted(prompts)},
    }


_SURFACE_FIELDS = ("title", "routes", "regulated", "eta_seconds", "emergency_minutes", "rungs", "triggers")
_CORPUS_FIELDS = ("title", "tenants", "residency", "store", "revisions", "embedding", "chunking", "freshness")
_ROUTING_FIELDS = ("providers", "accounts", "lanes", "routes", *POLICY_PARTS)


def _copy(entry: CopyEntry) -> dict[str, Any]:
    live = None
    if entry.live is not None:
        locales = {locale: _words(words) for locale, words in sorted(entry.live["locales"].items())}
        live = {"default_locale": entry.live["default_locale"], "locales": locales}
    return {**{name: getattr(entry, name) for name in COPY_FIELDS}, "live": live}


def _words(words: Any) -> Any:
    return [_words(answer) for answer in words] if isinstance(words, list) else _in_order(words, _ANSWER_FIELDS)


def _prompt(entry: PromptEntry) -> dict[str, Any]:
    live = None if entry.live is None else _in_order(entry.live, VERSION_FIELDS)
    if live is not None:
        live["messages"] = [_in_order(message, ("role", "content")) for message in live["messages"]]
    return {"title": entry.title, "description": entry.description, "route": entry.route, "live": live}


def _sorted_entries(entries: Mapping[str, Any] | None, fields: tuple[str, ...]) -> dict[str, Any] | None:
    return None if entries is None else {slug: _in_order(entries[slug], fields) for slug in sorted(entries)}


def _in_order(mapping: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    """The known keys as people expect them, the others by name: the database keeps no order of its own."""
    names = [name for name in first if name in mapping] + sorted(mapping.keys() - set(first))
    return {name: _sorted(mapping[name]) for name in names}


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a review of the file reads like the prompt."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text
