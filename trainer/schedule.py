"""How the learning rate goes over a training."""

import math


def learning_rate_factor(done: float, warm_up: float) -> float:
    """The share of the full learning rate: a linear rise, then half a cosine down to 0.

    >>> learning_rate_factor(0.05, warm_up=0.1), learning_rate_factor(0.1, warm_up=0.1)
    (0.5, 1.0)
    """
    if done < warm_up:
        return done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
