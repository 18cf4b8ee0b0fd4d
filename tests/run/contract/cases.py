"""The list of bad methods: each with the check that must refuse it, and the words of the mistake."""

from __future__ import annotations

from typing import Any

from mlip.contract import Method

# (class, check, words of the mistake, changes of method.yaml)
CASES: list[tuple[type[Method], str, str, dict[str, Any]]] = []
UNTRAINED = {"trained": False, "recipes": {}}  # what is wrong with features alone is looked for without training


def refused(check: str, words: str, **changes: Any) -> Any:
    """Decorator of a bad method."""

    def note(kind: type[Method]) -> type[Method]:
        CASES.append((kind, check, words, changes))
        return kind

    return note
