"""Text -> word pieces, with the word and the sentence that each piece belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Encoding, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from mlip.errors import UserError
from mlip.text.reports import sentence_spans

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CACHED_TEXTS = 20_000  # about 1 kB each


@dataclass
class TokenBatch:
    """Word pieces of B texts, right-padded to the longest: [CLS] pieces [SEP] [PAD]..."""

    input_ids: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, L] int64, 1 = not padding
    word_ids: Tensor  # [B, L] int64: index 0.. of the word a piece belongs to, -1 for [CLS], [SEP], [PAD]
    sentence_ids: Tensor  # [B, L] int64: index 0.. of the sentence of a piece, -1 for [CLS], [SEP], [PAD]
    words: int = 0  # of a part of a batch: most words of a text of the whole batch. 0: as these texts have
    sentences: int = 0  # of a part of a batch: most sentences of a text of the whole batch

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The four [B, L] by name."""
        names = ("input_ids", "attention_mask", "word_ids", "sentence_ids")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str) -> TokenBatch:
        return self._with([value.to(device) for value in self.tensors.values()], self.words, self.sentences)

    def rows(self, part: slice) -> TokenBatch:
        """Some of the texts, as wide as all: in pieces, and in what is summed over words and sentences."""
        most = (int(ids.max()) + 1 if ids.numel() else 0 for ids in (self.word_ids, self.sentence_ids))
        words, sentences = (max(known, found) for known, found in zip((self.words, self.sentences), most, strict=True))
        return self._with([value[part] for value in self.tensors.values()], words, sentences)

    @staticmethod
    def _with(tensors: list[Tensor], words: int, sentences: int) -> TokenBatch:
        input_ids, attention_mask, word_ids, sentence_ids = tensors
        return TokenBatch(input_ids, attention_mask, word_ids, sentence_ids, words, sentences)


class Tokenizer:
    """A Hugging Face ``tokenizers`` backend that yields a :class:`TokenBatch`.

    Parameters
    ----------
    backend : encodes one text to ``[CLS] pieces [SEP]``.
    max_tokens : longest sequence in pieces, [CLS] and [SEP] counted; a longer text keeps its first pieces and its [SEP].
    pad_token : the vocabulary's padding token.
    """

    def __init__(self, backend: Backend, max_tokens: int, pad_token: str = "[PAD]") -> None:
        pad = backend.token_to_id(pad_token)
        if pad is None:
            raise UserError(
                f"the tokenizer has no {pad_token!r}", where="encoders.text", fix="use a BERT-like tokenizer"
            )
        if max_tokens < 3:
            raise UserError(f"max_tokens is {max_tokens}", where="encoders.text", fix="allow 3 or more pieces")
        self.backend, self.max_tokens, self.pad_token = backend, max_tokens, pad_token
        backend.no_padding()
        backend.enable_truncation(max_tokens)
        self.pad_id = int(pad)
        self._cache: dict[str, np.ndarray] = {}  # reports come back every epoch

    @property
    def vocabulary(self) -> int:
        """Number of word pieces, special ones included: the rows of the embedding table."""
        return int(self.backend.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenise B texts, right-padded to the longest of them (L pieces).

        Sentences are those of :func:`mlip.text.reports.sentence_spans`; the full stop that closes one belongs to none (-1).
        """
        unknown = [text for text in dict.fromkeys(texts) if text not in self._cache]
        fresh = dict(zip(unknown, map(_piece_rows, unknown, self.backend.encode_batch(unknown)), strict=True))
        pieces = [fresh[text] if text in fresh else self._cache[text] for text in texts]
        if len(self._cache) < CACHED_TEXTS:
            self._cache.update(fresh)
        width = max((p.shape[1] for p in pieces), default=0)
        batch = np.full((4, len(pieces), width), -1, dtype=np.int64)
        batch[0], batch[1] = self.pad_id, 0
        for row, p in enumerate(pieces):
            batch[:, row, : p.shape[1]] = p
        return TokenBatch(*torch.from_numpy(batch))

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` (Hugging Face's format) and ``tokenizer_settings.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        settings = {"max_tokens": self.max_tokens, "pad_token": self.pad_token}
        (folder / "tokenizer_settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read what :meth:`save` wrote.

        Raises
        ------
        UserError : one of the two files is missing or damaged.
        """
        path = Path(folder) / "tokenizer.json"
        try:
            settings = json.loads((Path(folder) / "tokenizer_settings.json").read_text(encoding="utf-8"))
            return cls(Backend.from_str(path.read_text(encoding="utf-8")), **settings)
        except UserError:
            raise
        except Exception as error:  # the Rust backend raises bare Exception
            raise UserError(
                f"cannot be read as a tokenizer ({error})", where=path, fix="train or copy it again"
            ) from None

    @classmethod
    def pretrained(cls, name_or_folder: str | Path, max_tokens: int) -> Tokenizer:
        """The fast tokenizer of a pretrained BERT: a local folder, or a name on the Hugging Face hub.

        Raises
        ------
        UserError : there is no such folder, the hub does not answer, or the tokenizer is no word-piece one.
        """
        from transformers import AutoTokenizer

        source = pretrained_source(name_or_folder)
        try:
            fast = AutoTokenizer.from_pretrained(source, use_fast=True)
        except (OSError, ValueError) as error:
            raise no_pretrained(source, error) from None
        backend = getattr(fast, "backend_tokenizer", None)
        if backend is None or not fast.pad_token:
            raise UserError("has no fast tokenizer with padding", where=source, fix="use a BERT-like model")
        # A copy: truncation is set on the backend, which transformers would otherwise share.
        return cls(Backend.from_str(backend.to_str()), max_tokens, fast.pad_token)


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_tokens: int) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer (BERT's normaliser and pre-tokenizer) on a corpus.

    The same texts, in any order, give the same vocabulary.

    Raises
    ------
    UserError : there is no text, or ``vocabulary`` is too small for the letters of the corpus.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    corpus = [normalizer.normalize_str(text) for text in texts]
    letters = sorted(set().union(*corpus) - {" "}) if corpus else []
    if not letters:
        raise UserError(
            "there is no report to train the tokenizer on", where="encoders.text", fix="check pretrain.datasets"
        )
    if 2 * len(letters) + len(SPECIAL) > vocabulary:
        problem = f"a vocabulary of {vocabulary} cannot hold the {len(letters)} letters of the corpus"
        raise UserError(problem, where="encoders.text.vocabulary", fix="raise it")
    # The trainer numbers letters in hash order and breaks ties by those numbers: fixed here, or two runs would differ.
    fixed = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=fixed, show_progress=False)
    draft = Backend(models.WordPiece(unk_token="[UNK]"))
    draft.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    draft.train_from_iterator(corpus, trainer)

    backend = Backend(models.WordPiece(draft.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(list(SPECIAL))
    sep, cls = (("[SEP]", fixed.index("[SEP]")), ("[CLS]", fixed.index("[CLS]")))
    backend.post_processor = processors.BertProcessing(sep, cls)
    return Tokenizer(backend, max_tokens)


def pretrained_source(name_or_folder: str | Path) -> str:
    """The given folder or hub name; what looks like a path must exist, so that a typing error never asks the hub.

    Raises
    ------
    UserError : it is written as a path, and there is no such folder.
    """
    source = str(name_or_folder)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        folder = Path(source).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(
                "holds no config.json of a pretrained model", where=folder, fix="correct encoders.text.pretrained"
            )
        return str(folder)
    return source


def no_pretrained(source: str, error: Exception) -> UserError:
    """The error for a model that could be found neither on disk nor on the hub."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the pretrained text model cannot be loaded ({reason[:160]})",
        where=source,
        fix="give a local folder with its files in encoders.text.pretrained",
    )


def _piece_rows(text: str, encoding: Encoding) -> np.ndarray:
    """[4, L] int32: piece id, attention, word and sentence of each piece of one text."""
    rows = np.full((4, len(encoding.ids)), -1, dtype=np.int32)
    rows[0], rows[1] = encoding.ids, 1
    raw = np.array([-1 if w is None else w for w in encoding.word_ids])
    real = np.flatnonzero(raw >= 0)
    if len(real):
        # Counted again from 0, so that no index is skipped.
        rows[2, real] = np.cumsum(np.diff(raw[real], prepend=raw[real[0]]) != 0)
        rows[3, real] = _containing(np.array(encoding.offsets)[real, 0], sentence_spans(text))
    return rows


def _containing(positions: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Index of the span [start, end) that holds each position, -1 where none does."""
    if not spans:
        return np.full(len(positions), -1, dtype=np.int64)
    bounds = np.array(spans)
    index = np.searchsorted(bounds[:, 0], positions, side="right") - 1
    return np.where((index >= 0) & (positions < bounds[index, 1]), index, -1)
