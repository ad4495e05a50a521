"""Which weights of a language model are tuned, and where those are kept beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import DataError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.settings import TrainerSettings, Tuning
from trainer.text.encoder import LanguageModel

FILE = "language.safetensors"


@dataclass(frozen=True)
class TunedReader:
    """A tuned language model.

    Attributes:
        reader: reads as it did, with the tuned weights.
        rank: of lora's adapters.
        weights: those that tuning changed, by name; of lora the adapters.
    """

    reader: LanguageModel
    tuning: Tuning
    rank: int
    weights: Mapping[str, Tensor]


def open_up(reader: LanguageModel, settings: TrainerSettings) -> None:
    """Let the weights that the settings name be trained, and no others."""
    reader.network.requires_grad_(requires_grad=False)
    if settings.language_tuning is Tuning.LORA:
        _adapt(reader, settings.language_lora_rank)
    elif settings.language_tuning is Tuning.TOP:
        for layer in layers_of(reader.network)[-settings.language_top_layers :]:
            layer.requires_grad_()
    else:
        reader.network.requires_grad_()


def layers_of(network: nn.Module) -> nn.ModuleList:
    """The stack of transformer layers, whatever the network calls it: the longest list of modules.

    Raises:
        DataError: there is none.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise DataError(f"{type(network).__name__} has no stack of layers: tune it whole, or lora")
    return max(lists, key=len)


def _adapt(reader: LanguageModel, rank: int) -> None:
    """Low-rank adapters on every linear layer.

    E. J. Hu et al.: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """
    # Seconds of imports, which only this needs.
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    wanted = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    reader.network = get_peft_model(reader.network, wanted)


def changed(reader: LanguageModel) -> dict[str, Tensor]:
    """The weights that can be trained, by name; of lora the adapters."""
    named = reader.network.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if weight.requires_grad}


def merge(reader: LanguageModel, tuning: Tuning) -> None:
    """End tuning; adapters become a part of the weights, so that reading costs what it did."""
    if tuning is Tuning.LORA:
        reader.network = reader.network.merge_and_unload()
    reader.network.requires_grad_(requires_grad=False).eval()


def save_weights(weights: Mapping[str, Tensor], tuning: Tuning, rank: int, folder: Path) -> None:
    """Write tuned weights to an existing folder.

    Args:
        rank: of lora's adapters.
    """
    described = {"tuning": str(tuning), "rank": str(rank)}
    save_file(dict(weights), folder / FILE, metadata=described)


def with_weights(reader: LanguageModel, folder: Path) -> TunedReader | None:
    """What read the items of the model saved in this folder; None where nothing was tuned.

    Args:
        reader: the untuned language model of the settings of the model in this folder.

    Raises:
        DataError: the weights cannot be read, or are another language model's.
    """
    if not (folder / FILE).exists():
        return None
    copied = reader.copy()
    try:
        with safe_open(folder / FILE, "pt") as file:
            described = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tuning, rank = Tuning(described["tuning"]), int(described["rank"])
        if tuning is Tuning.LORA:
            _adapt(copied, rank)
        _put(copied.network, weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder / FILE}: not of this language model: {why}") from error
    merge(copied, tuning)
    return TunedReader(copied, tuning, rank, weights)


def _put(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    unknown = network.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"no weight {unknown[0]}")
