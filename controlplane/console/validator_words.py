"""What validator policies do to answers, in words: each rule in one sentence, and what a change of them does. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from controlplane.console.wording import listed
from dataplane.validators.abuse import DICTIONARIES
from dataplane.validators.checksums import ChecksumParams
from dataplane.validators.figures import Bounds, DateParams, NumberParams, UnitParams
from dataplane.validators.grounding import CitationParams, SupportParams
from dataplane.validators.personal import PersonalParams
from dataplane.validators.policy import BOTH, TOOL_ARGUMENTS, WINDOW, JudgeParams, Rule, ValidatorPolicy
from dataplane.validators.secrets import SecretParams
from dataplane.validators.structure import SchemaParams
from dataplane.validators.values import Layer, Verdict
from dataplane.validators.wording import MUST_MATCH, PatternParams, TermParams, ToxicityParams

# What a rule does about what it finds, as in 'now warns instead of blocks'.
_DOES: Final = {Verdict.WARN: "warns", Verdict.REPAIR: "takes out what it finds", Verdict.BLOCK: "blocks"}
_LAYER: Final = {
    Layer.STRUCTURE: "structure",
    Layer.RULES: "rules",
    Layer.GROUNDING: "grounding",
    Layer.JUDGE: "a model judges",
}
_CLASSES: Final = {
    "email": "e-mail address",
    "phone": "phone number",
    "card": "card number",
    "iban": "IBAN",
    "ip": "IP address",
    "national_id": "national id",
    "birth_date": "date of birth",
}
_LOOKALIKES: Final = {
    "iban": "IBAN",
    "card": "card number",
    "eu_vat": "VAT number",
    "isbn": "ISBN",
    "ean": "EAN",
    "imei": "IMEI",
    "lei": "LEI",
}
_BOUND: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_TERMS_SHOWN: Final = 3


# --- one rule --------------------------------------------------------------------------------------------------------
def rule_sentence(rule: Rule) -> str:
    """What a rule looks for, what follows, and what happens if it cannot say."""
    return f"{rule.id}: {looks_for(rule)}. {_follows(rule)}; {_abstains(rule)}"


def looks_for(rule: Rule) -> str:
    """What a rule asks of an answer: 'no card number or IBAN may be in the text'."""
    return _ASKS[type(rule.params)](rule.params, _where(rule))


def layer_words(layer: str) -> str:
    """A layer as pages name it."""
    return _LAYER[Layer(layer)]


def _follows(rule: Rule) -> str:
    if rule.on_failure is Verdict.BLOCK:
        return "Otherwise the answer is withheld"
    if rule.on_failure is Verdict.REPAIR:
        return f"What it finds is taken out, and {rule.replacement!r} put in its place"
    return "Otherwise the answer goes out with a warning"


def _abstains(rule: Rule) -> str:
    then = "the answer is withheld" if rule.is_closed else "the answer goes out with a warning"
    return f"if it cannot say within {rule.budget_ms.value:,.10g} ms, {then}"


def _where(rule: Rule) -> str:
    if rule.applies_to == BOTH:
        return "the text or the arguments of tool calls"
    return "the arguments of tool calls" if rule.applies_to == TOOL_ARGUMENTS else "the text"


def _schema(params: SchemaParams, where: str) -> str:
    if params.tool is not None:
        return f"arguments of tool {params.tool} keep to its schema"
    return f"an answer {'is JSON that keeps' if params.must_be_json else 'in JSON keeps'} to its schema"


def _pattern(params: PatternParams, where: str) -> str:
    if params.expect == MUST_MATCH:
        return f"{params.what} has to be in {where}"
    return f"no {params.what} may be in {where}"


def _terms(params: TermParams, where: str) -> str:
    if params.require:
        return f"{_some(params.require, 'and')} {'has' if len(params.require) == 1 else 'have'} to be in {where}"
    return f"not {_some(params.deny, 'or')} may be in {where}{_apart(params.allow)}"


def _toxicity(params: ToxicityParams, where: str) -> str:
    languages = listed([DICTIONARIES[one].capitalize() for one in params.languages], last="or")
    return f"no abusive word of {languages} may be in {where}{_apart(params.allow)}"


def _apart(allowed: tuple[str, ...]) -> str:
    return f", apart from {_some(allowed, 'and')}" if allowed else ""


def _some(terms: tuple[str, ...], last: str) -> str:
    shown = [f"“{term}”" for term in terms[:_TERMS_SHOWN]]
    more = len(terms) - len(shown)
    return listed([*shown, *([f"{more:,} more"] if more else [])], last=last)


def _numbers(params: NumberParams, where: str) -> str:
    said = [f"{one.path.text} {_bounds(one.bounds, is_whole=one.is_whole)}".rstrip() for one in params.paths]
    said += [f"{one.path.text} is the sum of {one.sum_of.text}" for one in params.paths if one.sum_of is not None]
    for what, bounds in (("amounts of money", params.money), ("percentages", params.percent)):
        if bounds.bounds:
            said.append(f"{what} {_bounds(bounds)}")
    return f"numbers make sense: {listed(said)}"


def _bounds(bounds: Bounds, *, is_whole: bool = False) -> str:
    said = ["whole"] if is_whole else []
    said += [f"{_BOUND[name]} {value.normalize():,f}" for name, value in bounds.bounds]
    return listed(said) if said else "a number"


def _dates(params: DateParams, where: str) -> str:
    said = [f"{one.path.text} is a date{_between(one.not_before, one.not_after)}" for one in params.paths]
    said += [f"{first.text} is not later than {second.text}" for first, second in params.order]
    if params.prose is not None:
        said.append(f"dates in {where} exist{_between(*params.prose)}")
    return listed(said)


def _between(first: Any, last: Any) -> str:
    after = f" from {first.isoformat()}" if first is not None else ""
    return after + (f" to {last.isoformat()}" if last is not None else "")


def _units(params: UnitParams, where: str) -> str:
    said = []
    if params.forbid:
        said.append(f"no number in {where} is in {listed(sorted(params.forbid), last='or')}")
    if params.require:
        about = f" about {listed([word.strip() for word in params.about], last='or')}" if params.about else ""
        said.append(f"a number in a sentence{about} is in {listed(sorted(params.require), last='or')}")
    return listed(said)


def _checksums(params: ChecksumParams, where: str) -> str:
    kinds = listed([_LOOKALIKES.get(kind, kind.replace("_", " ")) for kind in params.kinds], last="or")
    return f"what looks like {_a(kinds)} in {where} is a valid one"


def _personal(params: PersonalParams, where: str) -> str:
    classes = listed([_CLASSES.get(name, name.replace("_", " ")) for name in params.classes], last="or")
    apart = f", apart from {listed(params.allow)}" if params.allow else ""
    return f"no {classes} may be in {where}{apart}"


def _secrets(params: SecretParams, where: str) -> str:
    names = [name.replace("_", " ") for name in params.classes]
    shown = names if len(names) <= _TERMS_SHOWN + 1 else [*names[:_TERMS_SHOWN], f"{len(names) - _TERMS_SHOWN} more"]
    return f"no key, token or password ({', '.join(shown)}) may be in {where}"


def _citations(params: CitationParams, where: str) -> str:
    form = "[1]" if params.form == "numbers" else "[name of a source]"
    said = [f"citations such as {form} name sources that there are"]
    if params.minimum:
        said.append(f"there {'is' if params.minimum == 1 else 'are'} at least {params.minimum}")
    if params.each_number:
        said.append("each sentence with a number has one")
    return listed(said)


def _support(params: SupportParams, where: str) -> str:
    said = [
        _share(share, what)
        for share, what in ((params.numbers, "numbers"), (params.dates, "dates"), (params.names, "names"))
        if share is not None
    ]
    if params.gram_share is not None:
        said.append(_share(params.gram_share, f"runs of {params.gram} words"))
    return f"{listed(said)} occur in the sources{' or the question' if params.with_question else ''}"


def _share(share: float, what: str) -> str:
    return f"all {what}" if share >= 1 else f"{100 * share:.4g} % of {what}"


def _judge(params: JudgeParams, where: str) -> str:
    asked = f"“{params.question}”" if params.question else "whether every claim is supported by the sources"
    return f"a model of route {params.route} is asked {asked}"


def _a(words: str) -> str:
    return f"{'an' if words[:1] in 'AEIOU' and words[1:2].isupper() else 'a'} {words}"


_ASKS: Final[Mapping[type, Callable[[Any, str], str]]] = {
    SchemaParams: _schema,
    PatternParams: _pattern,
    TermParams: _terms,
    ToxicityParams: _toxicity,
    NumberParams: _numbers,
    DateParams: _dates,
    UnitParams: _units,
    ChecksumParams: _checksums,
    PersonalParams: _personal,
    SecretParams: _secrets,
    CitationParams: _citations,
    SupportParams: _support,
    JudgeParams: _judge,
}


# --- one policy ------------------------------------------------------------------------------------------------------
def validator_sentences(policy: ValidatorPolicy) -> list[str]:
    """What becomes of answers under the policy: what all of it decides, then each rule, cheapest layer first."""
    return [*whole_sentences(policy), *map(rule_sentence, policy.rules)]


def whole_sentences(policy: ValidatorPolicy) -> list[str]:
    """What all of the policy decides, without its rules."""
    said = [_streamed(policy)]
    if policy.escalation is None:
        said.append("Who asked for an answer that is withheld gets an error that names the rules, and no words")
    else:
        said.append(f"In the place of an answer that is withheld stand the signed words of {policy.escalation}")
    if policy.regulated:
        said.append("It is regulated: nothing goes out that a rule could not look at")
    return said


def _streamed(policy: ValidatorPolicy) -> str:
    if policy.streams != WINDOW:
        return "A stream is held back until every rule has looked at all of it"
    return (
        f"Of a stream, up to {policy.window_characters.value:,.0f} characters are held back while they may still be "
        "part of something forbidden; rules that need the whole answer look at it when it ends"
    )


def validator_note(policy: ValidatorPolicy) -> str:
    """The same in half a line: '5 rules, of which 2 can withhold an answer'."""
    count, hard = len(policy.rules), sum(rule.on_failure is Verdict.BLOCK or rule.is_closed for rule in policy.rules)
    rules = f"{count} rule{'' if count == 1 else 's'}"
    return f"{rules}, of which {hard or 'none'} can withhold an answer"


def validator_warnings(policy: ValidatorPolicy) -> list[str]:
    """What to think twice about before a policy is used as it is."""
    said = []
    late = [rule.id for rule in policy.rules if rule.sieve is None and rule.on_failure is Verdict.BLOCK]
    if policy.streams == WINDOW and late:
        said.append(
            f"{'Rule' if len(late) == 1 else 'Rules'} {listed(late)} can only say at the end of a stream, when most of "
            "the answer is out; set streams to hold if it must not be"
        )
    if any(rule.on_failure is Verdict.BLOCK for rule in policy.rules) and policy.escalation is None:
        said.append("Nobody wrote words for who does not get an answer; name signed copy of the kind escalation")
    return said


# --- what a change does ----------------------------------------------------------------------------------------------
def changed_rules(before: ValidatorPolicy, after: ValidatorPolicy) -> list[str]:
    """What is different, a sentence each: rules that came, went, or do something else, and what all of it decides."""
    known, said = whole_sentences(before), whole_sentences(after)
    return [*(line for line in said if line not in known), *_rule_changes(before, after)]


def _rule_changes(before: ValidatorPolicy, after: ValidatorPolicy) -> Iterator[str]:
    old, new = ({rule.id: rule for rule in policy.rules} for policy in (before, after))
    for name, rule in old.items():
        if name not in new:
            yield f"Rule {name} is gone: nothing sees to it any more that {looks_for(rule)}"
    for name, rule in new.items():
        if name not in old:
            yield f"Rule {name} is new: {rule_sentence(rule).removeprefix(f'{name}: ')}"
        else:
            yield from _moved(old[name], rule)


def _moved(before: Rule, after: Rule) -> Iterator[str]:
    if before.on_failure is not after.on_failure:
        yield f"Rule {after.id} now {_DOES[after.on_failure]} instead of {_instead(before.on_failure)}"
    if before.is_closed != after.is_closed:
        now = "withholds an answer" if after.is_closed else "lets an answer go out with a warning"
        yield f"Rule {after.id} {now} now where it cannot say"
    if looks_for(before) != looks_for(after):
        yield f"Rule {after.id} asks another thing now: {looks_for(after)}; until now: {looks_for(before)}"
    elif before.version != after.version and before.on_failure is after.on_failure:
        yield f"Rule {after.id} is version {after.version} now, instead of {before.version}"


def _instead(verdict: Verdict) -> str:
    return {"warns": "warning", "blocks": "blocking"}.get(_DOES[verdict], "taking out what it finds")
