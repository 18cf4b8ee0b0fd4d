"""Text encoder: shapes, attention on demand, aggregation, pretrained folders."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from mlip.encoders.text import TextEncoder, aggregate_sentences, aggregate_words
from mlip.errors import UserError
from mlip.study import TextEncoderConfig
from mlip.text.tokenisation import TokenBatch, Tokenizer, train_tokenizer

TEXTS = [
    "No pleural effusion . The heart is enlarged .",
    "Clear lungs .",
    "Small left pneumothorax . No edema . No mass .",
]
CONFIG = TextEncoderConfig(layers=2, dim=32, heads=4, vocabulary=150, max_tokens=24)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, CONFIG.vocabulary, CONFIG.max_tokens)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(CONFIG, tokenizer.vocabulary).eval()


def test_attention_equals_that_of_eager_bert(encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    tokens = tokenizer(TEXTS)
    output = encoder(tokens, need_attention=True)
    eager = BertModel(encoder.model.config, add_pooling_layer=False).eval()
    eager.load_state_dict(encoder.model.state_dict())
    eager.set_attn_implementation("eager")
    reference = eager(tokens.input_ids, attention_mask=tokens.attention_mask, output_attentions=True)
    assert torch.allclose(output.attention, reference.attentions[-1][:, :, 0].mean(1), atol=1e-6)
    assert torch.allclose(output.hidden, reference.last_hidden_state, atol=1e-5)
    assert (output.attention[tokens.attention_mask == 0] == 0).all()
    assert encoder(tokens).attention is None


def test_layers(encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    tokens = tokenizer(TEXTS)
    output = encoder(tokens, layers=3)
    batch, length = tokens.input_ids.shape
    assert output.layers.shape == (3, batch, length, encoder.dim)
    assert torch.equal(output.layers[-1], output.hidden) and torch.equal(output.cls, output.hidden[:, 0])
    assert not torch.allclose(output.layers[0], output.layers[1])
    with pytest.raises(UserError, match="layers"):
        encoder(tokens, layers=4)


def test_padding_does_not_matter(encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    alone = encoder(tokenizer(TEXTS[1:2])).cls
    together = encoder(tokenizer(TEXTS)).cls[1:2]
    assert torch.allclose(alone, together, atol=1e-5)


def test_aggregation_against_a_loop(tokenizer: Tokenizer, rng) -> None:
    tokens = tokenizer(TEXTS)
    x = torch.from_numpy(rng.normal(size=(*tokens.input_ids.shape, 5))).requires_grad_()
    for function, ids in ((aggregate_words, tokens.word_ids), (aggregate_sentences, tokens.sentence_ids)):
        grouped, padding = function(x, tokens)
        assert grouped.shape[:2] == padding.shape and padding.shape[1] == int(ids.max()) + 1
        for b in range(len(TEXTS)):
            for group in range(padding.shape[1]):
                members = x[b][ids[b] == group]
                assert bool(padding[b, group]) == (len(members) == 0)
                assert torch.allclose(grouped[b, group], members.sum(0))
    mean, _ = aggregate_sentences(x, tokens, "mean")
    assert torch.allclose(mean[0, 1], x[0][tokens.sentence_ids[0] == 1].mean(0))
    aggregate_words(x, tokens)[0].sum().backward()
    assert torch.equal(x.grad[..., 0] != 0, tokens.word_ids >= 0)
    weights, _ = aggregate_words(torch.ones(x.shape[:2]), tokens)  # [B, L] works too: attention per word
    assert weights.sum() == (tokens.word_ids >= 0).sum()


def test_aggregation_of_nothing() -> None:
    ids = torch.full((2, 3), -1)
    words, padding = aggregate_words(torch.ones(2, 3, 4), TokenBatch(ids, ids, ids, ids))
    assert words.shape == (2, 1, 4) and words.sum() == 0 and padding.all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A tiny BERT as a user would have Bio_ClinicalBERT on disk."""
    path = tmp_path_factory.mktemp("bert")
    sizes = BertConfig(vocab_size=150, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)  # fmt: skip
    BertModel(sizes).save_pretrained(path)
    vocabulary = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    (path / "vocab.txt").write_text("\n".join(token for token, _ in vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=dict(vocabulary)).save_pretrained(path)
    return path


def test_pretrained_folder(folder: Path) -> None:
    tokenizer = Tokenizer.pretrained(folder, max_tokens=10)
    tokens = tokenizer(TEXTS)
    assert tokens.input_ids.shape[1] == 10
    reference = AutoTokenizer.from_pretrained(folder)(TEXTS[0], truncation=True, max_length=10)["input_ids"]
    assert tokens.input_ids[0].tolist() == reference
    encoder = TextEncoder(TextEncoderConfig(pretrained=str(folder), max_tokens=10), tokenizer.vocabulary).eval()
    assert encoder.dim == 16 and encoder.depth == 3
    weights = BertModel.from_pretrained(folder).eval()
    expected = weights(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    assert torch.allclose(encoder(tokens).hidden, expected, atol=1e-5)
    encoder.keep_layers(1)
    assert encoder.depth == 1 and encoder(tokens, need_attention=True, layers=2).layers.shape[0] == 2


def test_pretrained_errors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"config\.json.*Fix: correct encoders"):
        Tokenizer.pretrained(tmp_path / "nowhere", 12)
    with pytest.raises(UserError, match="positions"):
        TextEncoder(TextEncoderConfig(pretrained=str(folder), max_tokens=64), 150)
    with pytest.raises(UserError, match="word pieces"):
        TextEncoder(TextEncoderConfig(pretrained=str(folder), max_tokens=12), 30_000)

    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(UserError, match="local folder"):
        Tokenizer.pretrained("emilyalsentzer/Bio_ClinicalBERT", 97)
    with pytest.raises(UserError, match="multiple of heads"):
        TextEncoder(TextEncoderConfig(dim=10, heads=4), 50)


def test_a_step_is_cheap(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(TextEncoderConfig(layers=2, dim=128, heads=4, max_tokens=64), tokenizer.vocabulary)
    ids = torch.randint(5, tokenizer.vocabulary, (48, 64), generator=torch.Generator().manual_seed(0))
    groups = (torch.arange(64) // 8).repeat(48, 1)
    tokens = TokenBatch(ids, torch.ones_like(ids), groups, groups)
    for _ in range(2):  # the first pass warms up
        start = time.process_time()
        output = encoder(tokens, need_attention=True)
        (aggregate_words(output.hidden, tokens)[0].sum() + output.cls.sum()).backward()
        seconds = time.process_time() - start
    print(f"forward and backward, B=48, L=64: {seconds:.2f} CPU seconds")
    assert seconds < 4
