"""What training makes small. M requests, K targets, N items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.examples.requests import Batch
from trainer.network import LOWEST


def softmax_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each target over all items but the others of its instant: float[K].

    Args:
        scores: float[M, N].
    """
    wrong = torch.logsumexp(scores.masked_fill(batch.tied, LOWEST), 1)[batch.rows]
    return nn.functional.softplus(wrong - scores[batch.rows, batch.targets])


def distillation_loss(scores: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the scores of each request with a teacher's answers, float[M].

    G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, at
    temperature 1: as likely as the teacher finds an item, its pupil is to find it.

    Args:
        scores: float[M, N]; what is hidden in them is hidden from the teacher.
        answers: float[M, N].
    """
    likely = torch.softmax(answers.masked_fill(scores <= LOWEST / 2, LOWEST), 1)
    return -(likely * torch.log_softmax(scores, 1)).sum(1)
