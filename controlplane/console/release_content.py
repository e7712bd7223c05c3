"""What a release carries, as people read it: a summary, what differs from another, and that in words. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from controlplane.console.diffs import diff_json
from controlplane.console.previews import Difference

Sections = Mapping[str, Any]
_ROUTING_PARTS: Final = {
    "routes": "route",
    "lanes": "lane",
    "breakers": "breaker policy",
    "retries": "retry policy",
    "probes": "probe policy",
    "quotas": "quota policy",
    "streams": "stream policy",
    "repairs": "repair policy",
    "validators": "validator policy",
    "fallbacks": "fallback stack",
    "accounts": "account",
    "providers": "provider",
}

# What an entry of a part names: the member, and what that is called.
_NAMED: Final = {
    "routes": {
        "retry": "retry policy",
        "streams": "stream policy",
        "repair": "repair policy",
        "validators": "validator policy",
        "fallback": "fallback stack",
    },
    "lanes": {"breaker": "breaker policy", "probe": "probe policy", "quota": "quota policy"},
}


@dataclass(frozen=True, slots=True)
class Part:
    """One section's differences: one entry per thing that differs. `changed` False: the section is the same."""

    title: str
    differences: tuple[Difference, ...]

    @property
    def changed(self) -> bool:
        return bool(self.differences)


def section_differences(before: Sections, after: Sections) -> list[Part]:
    """Compare two releases section by section, and in each thing by thing; equal things are left out."""
    return [
        Part(name.capitalize(), tuple(_entries(name, before.get(name, {}), after.get(name, {}))))
        for name in sorted({*before, *after})
    ]


def _entries(section: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    """The things in a section: each prompt and canary is one; each map of the others (lanes, routes, tenants) is."""
    for key in sorted({*before, *after}):
        old, new = before.get(key, {}), after.get(key, {})
        if old != new:
            title = key if section in {"prompts", "canaries", "copy"} else key.capitalize()
            yield Difference(title, diff_json(old, new))


def words(before: Sections, after: Sections) -> list[str]:
    """What changes between two releases, a line per change; empty when they carry the same."""
    return [
        *_prompt_words(before.get("prompts", {}), after.get("prompts", {})),
        *_canary_words(before.get("canaries", {}), after.get("canaries", {})),
        *_copy_words(before.get("copy", {}), after.get("copy", {})),
        *_routing_words(before.get("routing", {}), after.get("routing", {})),
        *_hold_words(before.get("lane_overrides", {}), after.get("lane_overrides", {})),
        *_access_words(before.get("access", {}), after.get("access", {})),
    ]


def _prompt_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for slug in sorted({*before, *after}):
        old: Any = before.get(slug)
        new: Any = after.get(slug)
        if old == new:
            continue
        if old is None:
            yield f"{slug} is served for the first time, v{new['live']}"
        elif new is None:
            yield f"{slug} is no longer served; v{old['live']} was live"
        elif old["live"] != new["live"]:
            yield f"{slug} goes from v{old['live']} to v{new['live']}"
        elif old["route"] != new["route"]:
            yield f"{slug} takes route {new['route']} instead of {old['route']}"
        else:
            came = sorted(set(new["versions"]) - set(old["versions"]), key=int)
            went = sorted(set(old["versions"]) - set(new["versions"]), key=int)
            parts = [f"carries v{', v'.join(came)}" if came else "", f"drops v{', v'.join(went)}" if went else ""]
            yield f"{slug} {' and '.join(part for part in parts if part) or 'changes'}; v{new['live']} stays live"


def _canary_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for slug in sorted({*before, *after}):
        old: Any = before.get(slug)
        new: Any = after.get(slug)
        if old == new:
            continue
        if old is None:
            yield f"canary {slug} starts at {_stage(new)}"
        elif new is None:
            yield f"canary {slug} ends; it was at {_stage(old)}"
        elif _stage(old) != _stage(new):
            yield f"canary {slug} goes from {_stage(old)} to {_stage(new)}"
        else:
            yield f"canary {slug} changes at {_stage(new)}"


def _copy_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for slug in sorted({*before, *after}):
        old, new = before.get(slug), after.get(slug)
        if old is None and new is not None:
            yield f"copy {slug} may be shown for the first time, v{new['version']}"
        elif old is not None and new is None:
            yield f"copy {slug} can no longer be shown; v{old['version']} was live"
        elif old is not None and new is not None and old != new:
            yield f"copy {slug} goes from v{old['version']} to v{new['version']}"


def _routing_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for part, noun in _ROUTING_PARTS.items():
        old, new = before.get(part, {}), after.get(part, {})
        for verb, names in (
            ("is added", sorted(set(new) - set(old))),
            ("is removed", sorted(set(old) - set(new))),
            ("changes", sorted(name for name in set(old) & set(new) if old[name] != new[name])),
        ):
            for name in names:
                yield f"{noun} {name} {verb}{_entry_words(part, old.get(name), new.get(name))}"


def _hold_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for lane in sorted({*before, *after}):
        held = after.get(lane)
        if held is None:
            yield f"lane {lane} is let go"
        elif held != before.get(lane):
            yield f"lane {lane} is held {held['mode']} until {held['until']}"


def _entry_words(part: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    """Of a route or lane that changes, the policies that it names now; of a route also its order and its spread."""
    if part not in _NAMED or not old or not new:
        return ""
    said = []
    if part == "routes" and old["lanes"] != new["lanes"]:
        said.append(" → ".join(new["lanes"]))
    for member, noun in _NAMED[part].items():
        before, after = old.get(member), new.get(member)
        if before != after:
            said.append(f"takes {noun} {after}" if after else f"loses {noun} {before}")
    if part == "routes" and old.get("accounts_per_tenant") != (reached := new.get("accounts_per_tenant")):
        some = "all accounts" if reached is None else f"{reached} account{'' if reached == 1 else 's'}"
        said.append(f"each tenant reaches {some}")
    return f": {', '.join(said)}" if said else ""


def _access_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old, new = before.get("tenants", {}), after.get("tenants", {})
    for slug in sorted({*old, *new}):
        if slug not in old:
            yield f"tenant {slug} is added"
        elif slug not in new:
            yield f"tenant {slug} is removed"
        elif old[slug] != new[slug]:
            names = ", ".join(sorted(name for name in new[slug] if old[slug].get(name) != new[slug][name]))
            yield f"tenant {slug} changes: {names}"
    old_keys, new_keys = before.get("keys", {}), after.get("keys", {})
    for verb, some, others in (("admitted", new_keys, old_keys), ("refused from now on", old_keys, new_keys)):
        by_tenant = Counter(key["tenant"] for digest, key in some.items() if digest not in others)
        for tenant, count in sorted(by_tenant.items()):
            yield f"{count} API key{'' if count == 1 else 's'} of {tenant} {'is' if count == 1 else 'are'} {verb}"


def _stage(canary: Mapping[str, Any]) -> str:
    return str(canary["reach"][-1]["stage"])


def summary(sections: Sections) -> dict[str, Any]:
    """What a release carries, counted and named, for `releases/release.html`.

    Shape: {"tenants": int, "keys": int, "prompts": [{"slug", "live", "route", "pinnable": [int]}],
            "canaries": [{"slug", "prompt", "candidate", "control", "stage", "not_after": datetime | None}],
            "routes": [{"slug", "lanes", "deadline_ms"}], "copy": [{"slug", "version", "kind", "locales": [str]}],
            "holds": [{"lane", "mode", "by", "reason", "until": datetime}], "others": [str]}.
    Others are sections without a summary.
    """
    access, prompts = sections.get("access", {}), sections.get("prompts", {})
    canaries, routing = sections.get("canaries", {}), sections.get("routing", {})
    return {
        "tenants": len(access.get("tenants", {})),
        "keys": len(access.get("keys", {})),
        "prompts": [
            {
                "slug": slug,
                "live": entry["live"],
                "route": entry["route"],
                "pinnable": sorted(entry["pinnable"], reverse=True),
            }
            for slug, entry in sorted(prompts.items())
        ],
        "canaries": [
            {
                "slug": slug,
                "prompt": entry["prompt"],
                "candidate": entry["candidate"],
                "control": entry["control"],
                "stage": _stage(entry),
                "not_after": datetime.fromisoformat(entry["not_after"]) if entry["not_after"] else None,
            }
            for slug, entry in sorted(canaries.items())
        ],
        "routes": [{"slug": slug, **entry} for slug, entry in sorted(routing.get("routes", {}).items())],
        "copy": [
            {
                "slug": slug,
                "version": entry["version"],
                "kind": entry["document"]["kind"],
                "locales": sorted(entry["document"]["locales"]),
            }
            for slug, entry in sorted(sections.get("copy", {}).items())
        ],
        "holds": [
            {"lane": lane, **entry, "until": datetime.fromisoformat(entry["until"])}
            for lane, entry in sorted(sections.get("lane_overrides", {}).items())
        ],
        "others": sorted(set(sections) - {"access", "prompts", "canaries", "copy", "routing", "lane_overrides"}),
    }
