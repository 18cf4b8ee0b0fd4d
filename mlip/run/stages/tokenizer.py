"""The word-piece vocabulary: trained on the training reports, or the pre-trained encoder's own."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from mlip.pretraining.batches import Pairs
from mlip.text.tokenisation import Tokenizer, train_tokenizer

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def run(plan: Plan) -> None:
    config, folder = plan.study.encoders.text, plan.paths.tokenizer
    if config.pretrained:
        Tokenizer.pretrained(config.pretrained, config.max_tokens).save(folder)
        return
    texts = [report.text for report in Pairs(plan.study, "train", needed=plan.trains).reports]
    if not texts:  # a study of untrained rows on data without reports: its random text encoders read letters
        texts = [string.printable]
    train_tokenizer(texts, config.vocabulary, config.max_tokens).save(folder)
