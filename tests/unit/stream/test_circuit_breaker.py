"""A version that keeps failing is asked less and less, and one that answers again at once."""

from __future__ import annotations

from stream.inference import CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def rest_after_failure(breaker: CircuitBreaker, clock: Clock, longest_s: float = 30.0) -> float:
    breaker.trip(longest_s)
    start = clock.now_s
    while breaker.is_open:
        clock.now_s += 0.5
    return clock.now_s - start


def test_rests_double_up_to_the_longest_and_a_success_ends_that() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert not breaker.is_open
    rests = [rest_after_failure(breaker, clock) for _ in range(7)]
    assert rests == [1, 2, 4, 8, 16, 30, 30]
    breaker.reset()
    assert rest_after_failure(breaker, clock) == 1


def test_failures_with_short_rests_do_not_lengthen_a_later_one() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert [rest_after_failure(breaker, clock, longest_s=1.0) for _ in range(9)] == [1] * 9
    assert rest_after_failure(breaker, clock) == 2
