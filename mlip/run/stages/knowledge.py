"""The knowledge graph and its embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.knowledge.entities import build_knowledge

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan) -> None:
    build_knowledge(plan.study.knowledge, plan.study.seed).save(plan.paths.knowledge)
