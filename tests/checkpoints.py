"""Checkpoints of random weights in the layouts that others write, made by their own libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

CORPUS = ["No pneumothorax is seen. There is a small left pleural effusion.", "The heart is enlarged."]
SIDE, PATCH = 32, 8


def transformers_folder(folder: Path) -> CLIPModel:
    """A CLIPModel with tokenizer and image processor, as ``save_pretrained`` writes them; on 32 pixels."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    backend = Tokenizer(models.BPE(unk_token=end))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=[start, end], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 0), (end, 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=start, eos_token=end, pad_token=end, unk_token=end
    )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(fast), "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**sizes, "image_size": SIDE, "patch_size": PATCH}
    torch.manual_seed(3)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    CLIPImageProcessor(image_mean=[0.4, 0.4, 0.4], image_std=[0.3, 0.3, 0.3]).save_pretrained(folder)
    return model


def openai_model(cnn: bool = False) -> open_clip.CLIP:
    """CLIP in OpenAI's layout on 32 (ViT) or 64 pixels (ResNet), with the vocabulary of its tokenizer."""
    vision: dict[str, Any] = (
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
        if cnn
        else {"layers": 2, "width": 64, "patch_size": PATCH, "image_size": SIDE}
    )
    text: dict[str, Any] = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    torch.manual_seed(4)
    model = open_clip.CLIP(16, vision_cfg=vision, text_cfg=text, quick_gelu=True)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model.eval()


def biomedclip_folder(folder: Path, with_text_config: bool = True) -> open_clip.CustomTextCLIP:
    """An open_clip folder as BiomedCLIP's: a timm ViT, and a BERT that the configuration calls by a name on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pneumothorax", "left", "pleural", "effusion", "."]
    backend = Tokenizer(models.WordPiece(dict(zip(words, range(len(words)), strict=True)), unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    bert = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    hub, config_folder = "somebody/A-BERT", folder / "A-BERT"
    bert.save_pretrained(config_folder)
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 224}  # fmt: skip
    text = {
        "hf_model_name": hub, "hf_tokenizer_name": hub, "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 12,
    }  # fmt: skip
    torch.manual_seed(5)
    model = open_clip.CustomTextCLIP(
        16, vision_cfg=vision, text_cfg={**text, "hf_model_name": str(config_folder), "hf_model_pretrained": False}
    )  # type: ignore[arg-type]
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    about = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    if not with_text_config:
        (config_folder / "config.json").unlink()
    return model.eval()
