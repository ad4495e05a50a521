"""The fast loop: events in, recommendations out.

The serving core needs neither Kafka nor Faust: `catalogue`, `row_updates`, `trending`, `ranking`,
`routing`, `inference`, and `recommender`, which builds it all. Around it stands the worker: `app`
puts it together, `loop` and `pipeline` handle batches, `delivery` sends and commits. Nothing is
imported here: settings are read where neither Feast nor gRPC shall be loaded.
"""
