"""One bad method per check: the suite names that check, in one line with the file and the fix, and no other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlip.contract import Method
from mlip.run.contract.suite import CHECKS
from tests.run.contract import bad_images, bad_others, bad_training
from tests.run.contract.cases import CASES
from tests.run.contract.good import mistakes

MODULES = (bad_training, bad_images, bad_others)  # importing them fills CASES


@pytest.mark.parametrize(("kind", "check", "words", "changes"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_exactly_this_check_refuses_it(kind: type[Method], check: str, words: str, changes: dict[str, Any]) -> None:
    found = mistakes(kind, **changes)
    assert set(found) == {check}, found
    line = found[check]
    assert re.search(words, line), line
    assert "\n" not in line and ". Fix: " in line
    assert re.search(r"bad_\w+\.py:\d+: |good\.py:\d+: |method\.yaml: ", line), line


def test_every_check_has_a_method_that_it_refuses() -> None:
    refused_by = {check for _, check, _, _ in CASES}
    assert {c.__name__ for c in CHECKS} - refused_by == {"check_readme_is_there"}  # in test_suite.py
