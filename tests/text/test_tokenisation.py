"""Tokenizer: word and sentence ids, truncation, determinism, files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlip.errors import UserError
from mlip.text.reports import parse_report
from mlip.text.tokenisation import SPECIAL, Tokenizer, train_tokenizer

TEXTS = [
    "Right upper lobe nodule of 2.5 cm . No pneumothorax .",
    "The heart is enlarged . No pleural effusion or consolidation .",
    "Seen by Dr. ___ at 3 p.m. on ___ . Lungs are clear .",
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 120, 32)


def pieces(tokenizer: Tokenizer, row: torch.Tensor) -> list[str]:
    return [tokenizer.backend.id_to_token(i) for i in row.tolist()]


def test_word_and_sentence_ids(tokenizer: Tokenizer) -> None:
    text = parse_report("FINDINGS: Dr. ___ saw a 2.5 cm nodule. No effusion.\n\nIMPRESSION: Normal.").text
    batch = tokenizer([text, "clear"])
    assert batch.input_ids.dtype == torch.int64 and batch.input_ids.shape == batch.sentence_ids.shape
    tokens = pieces(tokenizer, batch.input_ids[0])
    words = batch.word_ids[0].tolist()
    assert tokens[0] == "[CLS]" and words[0] == -1
    real = [w for w in words if w >= 0]
    assert real == sorted(real) and set(real) == set(range(max(real) + 1))
    # A piece continues its word exactly where it is written with ##.
    for i in range(2, len(tokens)):
        if words[i] >= 0:
            assert tokens[i].startswith("##") == (words[i] == words[i - 1])
    sentences = batch.sentence_ids[0].tolist()
    assert max(sentences) == 2  # three sentences; neither "Dr." nor "2.5" parts one
    stops = [i for i, t in enumerate(tokens) if t == "."]
    assert [sentences[i] for i in stops] == [-1, 1, 1, -1, -1]  # "Normal ." | "Dr." "2.5" "nodule ." | "effusion ."
    assert batch.sentence_ids[1, -1] == -1 and batch.attention_mask[1].sum() < batch.attention_mask[0].sum()


def test_truncation_keeps_sep(tokenizer: Tokenizer) -> None:
    short = Tokenizer(type(tokenizer.backend).from_str(tokenizer.backend.to_str()), 6)
    batch = short([TEXTS[0], "the heart"])
    assert batch.input_ids.shape[1] == 6
    for row in range(2):
        last = int(batch.attention_mask[row].sum()) - 1
        assert pieces(short, batch.input_ids[row])[last] == "[SEP]"
    assert torch.equal(short([TEXTS[0], "the heart"]).input_ids, batch.input_ids)  # from the cache


def test_pieces_that_the_text_lacks(tokenizer: Tokenizer) -> None:
    batch = tokenizer(["", "..."])
    assert batch.word_ids[0].max() == -1 and batch.sentence_ids.max() == -1
    assert pieces(tokenizer, batch.input_ids[0])[:2] == ["[CLS]", "[SEP]"]


def test_training_is_deterministic_across_processes(tokenizer: Tokenizer) -> None:
    code = (
        "import sys; from mlip.text.tokenisation import train_tokenizer;"
        "t = train_tokenizer(eval(sys.argv[1]), 120, 32); print(sorted(t.backend.get_vocab().items()))"
    )
    other = subprocess.run([sys.executable, "-c", code, repr(TEXTS[::-1])], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(sorted(tokenizer.backend.get_vocab().items()))
    assert [tokenizer.backend.token_to_id(t) for t in SPECIAL] == [0, 1, 2, 3, 4]


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.max_tokens == tokenizer.max_tokens and again.vocabulary == tokenizer.vocabulary
    for a, b in zip(again(TEXTS).tensors.values(), tokenizer(TEXTS).tensors.values(), strict=True):
        assert torch.equal(a, b)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_errors() -> None:
    with pytest.raises(UserError, match="no report"):
        train_tokenizer(["  "], 100, 32)
    with pytest.raises(UserError, match="cannot hold"):
        train_tokenizer(TEXTS, 20, 32)
