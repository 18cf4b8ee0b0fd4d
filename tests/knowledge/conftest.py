"""One knowledge base for all tests of the package; its graph and linker are the real ones."""

from __future__ import annotations

import pytest

from mlip.knowledge.entities import Knowledge, build_knowledge
from mlip.study import KnowledgeConfig


@pytest.fixture(scope="session")
def knowledge() -> Knowledge:
    return build_knowledge(KnowledgeConfig(source="hpo", dim=32, epochs=40), seed=1)
