"""Where and in which precision training computes."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from headwater_client.errors import SettingsError
from torch import Tensor

from trainer.settings import Device, Precision, TrainerSettings

Value = TypeVar("Value")


def select_device(settings: TrainerSettings) -> torch.device:
    """The device of the settings.

    Raises:
        SettingsError: it is not there.
    """
    if settings.device is Device.CUDA and not torch.cuda.is_available():
        raise SettingsError(
            "trainer.device = 'cuda': torch finds no CUDA device here: set it to auto or cpu"
        )
    if settings.device is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device.value)


def autocast(settings: TrainerSettings, device: torch.device) -> torch.autocast:
    """The context of a forward pass in the precision of the settings; weights stay float32.

    Raises:
        SettingsError: the device cannot compute in it.
    """
    able = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if settings.precision is Precision.BFLOAT16 and not able:
        raise SettingsError(
            "trainer.precision = 'bfloat16': this CUDA device does not know it: set it to auto"
        )
    # On most CPUs bfloat16 is the slower one.
    chosen = settings.precision is Precision.AUTO and device.type == "cuda" and able
    wanted = chosen or settings.precision is Precision.BFLOAT16
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def to_device(value: Value, device: torch.device) -> Value:
    """A tensor, or a dataclass with all tensors in it, on a device."""
    found: Any = value
    if isinstance(value, Tensor):
        found = value.to(device)
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(
            value,
            **{one.name: to_device(getattr(value, one.name), device) for one in fields(value)},
        )
    return found  # type: ignore[no-any-return]
