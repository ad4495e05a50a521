"""A worker that some messages end, though they keep the contract: run by test_bad_input.py.

An event whose id begins with `raises` meets a fault in the code.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream.row_updates import ConsumerRecord, RowChanges, RowUpdater

apply = RowUpdater.apply


async def apply_or_die(self: RowUpdater, batch: Sequence[ConsumerRecord]) -> RowChanges:
    for record in batch:
        if record.event.event_id.startswith("raises"):
            raise RuntimeError("a fault that nobody has thought of")
    return await apply(self, batch)


if __name__ == "__main__":
    RowUpdater.apply = apply_or_die  # type: ignore[method-assign]
    from deploy.commands.worker import worker

    worker()
