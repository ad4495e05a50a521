"""Which weights of a language model are tuned, and where those are kept beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import DataError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.settings import TrainerSettings, TuningMode
from trainer.text.encoder import TextEncoder

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
