"""Which words make a mention absent or uncertain, and how far they reach (NegEx / ConText rules, our own lists).

Order of precedence for one mention: a strong "cannot exclude", then absence, then other uncertainty, then presence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from mlip.knowledge.words import normalise

Certainty = Literal["present", "absent", "uncertain"]


@dataclass
class Hit:
    """A mention in word positions [first, last] of one sentence; ``fixed`` where its phrase says the certainty itself."""

    entity: int
    first: int
    last: int
    fixed: Certainty | None
    certainty: Certainty = "present"


@dataclass(frozen=True)
class Trigger:
    kind: str  # a key of _PHRASES
    first: int
    last: int


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Phrases, parted by commas (";" and ":" are words here). The longest phrase at a word counts.
_PHRASES = {
    # No trigger at all, though they begin like one.
    "pseudo": """no change in, no change, no significant change in, no significant change, no interval change in, no interval change,
        no substantial change in, no substantial change, no relevant change in, no relevant change, no definite change in, no appreciable change in,
        no new change, no increase in, no decrease in, no significant increase in, no significant interval change in,
        no significant interval change, no improvement in, no improvement, no further change, without change, without change in, without significant change,
        without interval change, without significant change in, without significant interval change, not only, not significantly changed, not changed, not substantially changed,
        not increased, not improved, not certain whether, no longer requires, no worsening of, no enlargement of, no progression of,
        no short interval change, not appreciably changed, not well evaluated, not well assessed, not necessarily, no resolution of, not resolved, not cleared, not yet resolved,
        no significant improvement in, no significant worsening of, no convincing change in, no great change in, no great change,
        no significant improvement, no clearing of, no significant clearing of""",
    # Absence, forwards.
    "absent": """no, not, without, without evidence of, no evidence of, no sign of, free of, free from, negative for, absence of, lack of, denies, denied,
        neither, nor, never, resolution of, complete resolution of, interval resolution of, clearing of, removal of, interval removal of, resolved, resolving of,
        ruled out for, rather than, no longer, fails to reveal, fails to show, fail to reveal, clear of, none of, devoid of,
        no radiographic evidence of, cleared of, has been removal of""",
    # Absence, backwards.
    "absent_before": """is not seen, not seen, are not seen, not identified, not present, not evident, not visualized, not demonstrated,
        not appreciated, not noted, not detected, not found, not visible, not apparent, not observed, is absent, are absent, absent, has resolved, have resolved, resolved,
        is ruled out, ruled out, excluded, is excluded, has been excluded, unlikely, is unlikely, are unlikely, has cleared, have cleared, has been removed, have been removed,
        removed, no longer seen, no longer present, no longer visible, no longer evident, no longer visualized, no longer identified, none, was removed, were removed, not suggested,
        not clearly seen, has completely resolved, have completely resolved, not definitely seen, completely resolved, not definitely identified, no longer appreciated, : no,
        has been extracted, not convincingly seen""",
    # Uncertainty that even a negation does not lift.
    "open": """cannot exclude, can not exclude, could not exclude, cannot entirely exclude, cannot completely exclude, cannot rule out, can not rule out,
        not exclude, not rule out, not excluding, cannot definitely exclude, does not exclude, do not exclude, without excluding, difficult to exclude,
        cannot confidently exclude, cannot be certain about, not entirely exclude""",
    "open_before": """cannot be excluded, can not be excluded, could not be excluded, cannot be ruled out, can not be ruled out, not excluded, not be excluded,
        cannot be entirely excluded, cannot be completely excluded, not entirely excluded, not completely excluded, is not excluded, are not excluded, not ruled out,
        difficult to exclude, would be difficult to exclude, not be entirely excluded, cannot entirely be excluded, not be completely excluded,
        cannot be definitely excluded, not be ruled out, could not be ruled out""",
    # Uncertainty, forwards.
    "uncertain": """is likely, are likely, is possible, are possible, possible, possibly, probable, probably, likely, potentially, potential, suspected, suspect, suspicious for, suspicion for, suspicion of, questionable, question of,
        query, may represent, may reflect, may be, might represent, might reflect, might be, may indicate, may suggest, could represent, could reflect, could be,
        could indicate, would represent, suggest, suggesting, suggestive of, suggestion of, concerning for, concern for, concern of, worrisome for,
        cannot tell, evaluate for, eval for, assess for, rule out, r/o, differential includes, differential consideration include, differential diagnosis includes, differential diagnosis including, differential including, differential consideration, question, evaluation for,
        evaluation of,
        consider, consideration of, most likely, less likely, likely representing, likely reflecting, presumed, presumably, perhaps, equivocal for, may have,
        may relate to, may be related to, might be related to, may be due to, could be due to, may be secondary to, could be secondary to, appears to represent, favor,
        favored to represent, favoring, raises the possibility of, raise the possibility of, possibility of, uncertain, unclear if, unclear whether, indeterminate for,
        can not be certain, borderline, thought to represent, felt to represent, if there is concern for, versus, vs, might have,
        borderline for, may correspond to, believed to represent, may include""",
    "uncertain_before": """is possible, are possible, possible, is suspected, are suspected, suspected, is likely, are likely, is probable, is questioned,
        is not certain, is uncertain, is a consideration, be a consideration, is a possibility, may not be demonstrated, is limited, may be present, might be present, could be present, may be considered, should be considered,
        is questionable, would be difficult to see, is also possible, cannot be confirmed, is in the differential, less likely, versus, vs, be considered,
        may also be present, could also be present, not certain""",
    # Ends every scope.
    "stop": """but, however, although, though, except, except for, aside from, apart from, other than, besides, nevertheless, yet, whereas, while, which, with the exception of, there is, there are, there has been, secondary to, due to, because, since, given, status post, otherwise, in the setting of, with, ;, post, again seen, is again seen, related to, and there is, and there are""",
}
_CLAUSE = words(
    "the there a an mild mildly moderate moderately severe stable unchanged persistent increased increasing worsening redemonstrated small again heart lung cardiac mediastinal his her both"
)
_VERBS = words("is are was were has have remain remains appear appears demonstrate demonstrates show shows")
_JOIN = words("and or nor versus vs / ,")
_REACH = 6  # words between two mentions of one list


@cache
def _trie() -> dict[str, Any]:
    root: dict = {}
    for kind, text in _PHRASES.items():
        for phrase in " ".join(text.split()).split(", "):
            node = root
            for word in normalise(phrase):
                node = node.setdefault(word, {})
            node.setdefault("", []).append(kind)
    return root


def triggers(tokens: Sequence[str]) -> list[Trigger]:
    """Trigger phrases of a sentence, the longest at each word, left to right."""
    found, i = [], 0
    while i < len(tokens):
        node: dict = _trie()
        best: Any = None
        for j in range(i, len(tokens)):
            node = node.get(tokens[j], {})
            if not node:
                break
            if "" in node:
                best = (j, node[""])
        if best is None:
            i += 1
            continue
        found += [Trigger(kind, i, best[0]) for kind in best[1] if kind != "pseudo"]
        i = best[0] + 1
    return found


def assign(tokens: Sequence[str], hits: Sequence[Hit]) -> None:
    """Set the certainty of every hit of a sentence."""
    marks: list[set[str]] = [set() for _ in hits]
    found = triggers(tokens)
    stops = sorted({t.first for t in found if t.kind == "stop"})
    acted: set[int] = set()  # first words of the phrases that reached a mention forwards
    for trigger in found:
        # A trigger inside a mention ("no acute disease") does not act on it, yet may act on what follows.
        if trigger.kind in ("absent", "open", "uncertain"):
            for i in _forward(tokens, hits, trigger, stops):
                marks[i].add(trigger.kind)
                acted.add(trigger.first)
        elif trigger.kind != "stop":
            # "opacities are likely atelectasis": what points forwards says nothing of what stands before; "versus" does.
            if trigger.first in acted and tokens[trigger.first] not in ("versus", "vs"):
                continue
            for i in _backward(tokens, hits, trigger, stops):
                marks[i].add(trigger.kind.removesuffix("_before"))
    for hit, mark in zip(hits, marks, strict=True):
        if "open" in mark:
            hit.certainty = "uncertain"
        elif hit.fixed is not None:
            hit.certainty = hit.fixed
        elif "absent" in mark:
            hit.certainty = "absent"
        elif "uncertain" in mark:
            hit.certainty = "uncertain"


def _forward(tokens: Sequence[str], hits: Sequence[Hit], trigger: Trigger, stops: Sequence[int]) -> list[int]:
    """Hits after a trigger up to the scope's end. Absence reaches along the clause, uncertainty along one list only."""
    end = min((s for s in stops if s > trigger.last), default=len(tokens))
    reached: list[int] = []
    previous = trigger.last
    for i, hit in enumerate(hits):
        if hit.first <= trigger.last or hit.first >= end:
            continue
        gap = tokens[previous + 1 : hit.first]
        if _new_clause(tokens, previous, hit, negated=trigger.kind == "absent", first=not reached):
            break
        if trigger.kind != "absent" and reached and not (len(gap) <= _REACH and _JOIN & set(gap)):
            break
        reached.append(i)
        previous = max(previous, hit.last)
    return reached


def _new_clause(tokens: Sequence[str], previous: int, hit: Hit, *, negated: bool, first: bool) -> bool:
    """Whether a comma or "and" before a hit opens a clause of its own: ", the heart is enlarged", "and small effusion"."""
    if first:
        return False
    gap = list(tokens[previous + 1 : hit.first])
    for k, word in enumerate(gap):
        if word in (",", "and") and k + 1 < len(gap) and gap[k + 1] in _CLAUSE and "or" not in gap and "nor" not in gap:
            return True
    if negated and gap and gap[0] in (",", "and") and not {"or", "nor"} & set(gap):
        # ", cardiomegaly is unchanged": the hit is the subject of its own verb.
        tail = tokens[hit.last + 1 : hit.last + 3]
        return bool(tail) and tail[0] in _VERBS and not {"not", "identified", "seen"} & set(tail)
    return False


def _backward(tokens: Sequence[str], hits: Sequence[Hit], trigger: Trigger, stops: Sequence[int]) -> list[int]:
    """The nearest hit before a trigger, and those joined to it as a list."""
    begin = max((s for s in stops if s < trigger.first), default=-1)
    reached: list[int] = []
    following = trigger.first
    for i in range(len(hits) - 1, -1, -1):
        hit = hits[i]
        if hit.last >= trigger.first or hit.first < begin:
            continue
        gap = set(tokens[hit.last + 1 : following])
        if not reached:
            if following - hit.last - 1 > _REACH + 4 or ("," in gap and trigger.kind != "absent_before"):
                break
        elif not (following - hit.last - 1 <= _REACH and _JOIN & gap) or (
            trigger.kind == "uncertain_before" and tokens[trigger.first] in ("versus", "vs")
        ):
            break
        reached.append(i)
        following = hit.first
    return reached
