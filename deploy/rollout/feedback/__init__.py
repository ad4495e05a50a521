"""Counts what was recommended and what people did with it, for each variant of a rollout.

`counters` is what is counted, `attribution` says which recommendation an interaction is credited
to, `ledger` counts one partition in the order that `merging` makes, `codec` stores the result as a
feature row, and `consumer` runs all of them on Kafka and the store.
"""
