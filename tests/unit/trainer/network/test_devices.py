"""Gradients add up over batches, whatever the precision; a device that is not there is named."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from headwater_client.errors import SettingsError

from features.schema import FeatureSchema
from tests.harness.progress import keep_metrics
from trainer.datasets import Log
from trainer.examples import Examples, ItemTrends
from trainer.examples.batches import Batch, Batches
from trainer.network import LOWEST, TemporalModel, batch_scores, select_device, to_device
from trainer.network.devices import autocast
from trainer.progress import EpochMetrics, ProgressReporter
from trainer.settings import Device, Precision, TrainerSettings
from trainer.training import TrainingSetup, train_first_model
from trainer.training.fit import MicroBatch, accumulate_gradients, group_batches, softmax_loss

SETTINGS = TrainerSettings(
    width=8, epochs=1, batch_size=2, threads=1, dropout=0.0, identity_dropout=0.0
)
CPU = torch.device("cpu")


@pytest.fixture
def batches(columns: Examples, trended: ItemTrends) -> Batches:
    return Batches(columns, trended, np.ones(len(columns), bool), 8, 16)


def gradients(
    model: TemporalModel, parts: list[Batch], settings: TrainerSettings = SETTINGS
) -> tuple[float, dict[str, torch.Tensor]]:
    """Of a model in evaluation mode: without dropout."""
    model = copy.deepcopy(model)
    loss = accumulate_gradients(
        model, [MicroBatch(one, None) for one in parts], settings, nullcontext()
    )
    return loss, {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def test_small_batches_have_together_the_gradient_of_a_large_one(
    batches: Batches, model: TemporalModel
) -> None:
    # The same random numbers cut the same segments.
    (large,) = batches.epoch(1000, np.random.default_rng(4))
    small = list(batches.epoch(3, np.random.default_rng(4)))
    assert len(small) > 3
    sizes = {len(batch.targets) for batch in small}
    assert len(sizes) > 1, "equal sizes would not show a wrong weight"
    assert sum(len(batch.targets) for batch in small) == len(large.targets)
    loss, found = gradients(model, small)
    expected_loss, expected = gradients(model, [large])
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_what_is_bought_weighs_more(batches: Batches, model: TemporalModel) -> None:
    (batch,) = batches.epoch(1000, np.random.default_rng(4))
    assert 0 < batch.purchased.sum() < len(batch.purchased)
    with torch.no_grad():
        scores = batch_scores(model, batch).masked_fill(~model.learned, LOWEST)
        losses = softmax_loss(scores, batch)
    bought, rest = losses[batch.purchased], losses[~batch.purchased]
    expected = (3 * bought.sum() + rest.sum()) / (3 * len(bought) + len(rest))
    loss, _ = gradients(model, [batch], SETTINGS.model_copy(update={"purchase_loss_weight": 3.0}))
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert loss != pytest.approx(float(losses.mean()), rel=1e-3)


def test_weights_change_once_for_so_many_batches(small_log: Log, schema: FeatureSchema) -> None:
    steps = {}
    for joined in (1, 3):
        seen: list[EpochMetrics] = []
        settings = SETTINGS.model_copy(update={"gradient_accumulation_steps": joined})
        train_first_model(
            small_log, schema, TrainingSetup(settings), ProgressReporter(keep_metrics(seen))
        )
        steps[joined] = seen[-1].step
        assert 0.5 < seen[-1].done <= 1
    assert steps[3] == -(-steps[1] // 3)


def test_groups_hold_every_batch_once() -> None:
    assert list(group_batches(iter([1, 2, 3, 4, 5]), 2)) == [[1, 2], [3, 4], [5]]  # type: ignore[arg-type, list-item]


def test_half_precision_trains_what_is_kept_whole(small_log: Log, schema: FeatureSchema) -> None:
    losses = {}
    for precision in (Precision.FLOAT32, Precision.BFLOAT16):
        seen: list[EpochMetrics] = []
        settings = SETTINGS.model_copy(update={"precision": precision})
        trained = train_first_model(
            small_log, schema, TrainingSetup(settings), ProgressReporter(keep_metrics(seen))
        )
        losses[precision] = seen[-1].loss
        assert {weight.dtype for weight in trained.model.parameters()} == {torch.float32}
    assert losses[Precision.BFLOAT16] != losses[Precision.FLOAT32]
    assert losses[Precision.BFLOAT16] == pytest.approx(losses[Precision.FLOAT32], rel=0.02)


def test_automatic_precision_is_whole_on_a_cpu() -> None:
    assert not autocast(SETTINGS, CPU)._enabled


def test_automatic_precision_is_half_on_a_gpu_that_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = torch.device("cuda")
    made: list[bool] = []
    monkeypatch.setattr(torch, "autocast", lambda *_, enabled: made.append(enabled))
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able: able)
        autocast(SETTINGS, cuda)
    assert made == [True, False]
    asked = SETTINGS.model_copy(update={"precision": Precision.BFLOAT16})
    with pytest.raises(SettingsError, match=r"trainer.precision = 'bfloat16'"):
        autocast(asked, cuda)


def test_a_gpu_that_is_not_there_is_one_line(
    small_log: Log, schema: FeatureSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = SETTINGS.model_copy(update={"device": Device.CUDA})
    with pytest.raises(SettingsError, match=r"trainer.device = 'cuda': torch finds no CUDA"):
        train_first_model(small_log, schema, TrainingSetup(settings))
    assert select_device(SETTINGS) == CPU


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for wanted in (Device.AUTO, Device.CUDA):
        settings = SETTINGS.model_copy(update={"device": wanted})
        assert select_device(settings) == torch.device("cuda")
    assert select_device(SETTINGS.model_copy(update={"device": Device.CPU})) == CPU


def test_all_of_a_batch_moves(batches: Batches) -> None:
    batch = next(batches.epoch(3, np.random.default_rng(4)))
    # `meta` has no memory, but is another device wherever this runs.
    elsewhere = to_device(batch, torch.device("meta"))
    assert elsewhere.targets.device.type == elsewhere.requests.items.device.type == "meta"
    assert elsewhere.requests.items.shape == batch.requests.items.shape
