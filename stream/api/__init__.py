"""The HTTP API: a person asks, and is answered by the serving core that the worker uses.

A request is read by the structs of `headwater_client.contract`, which apps have too, answered by
`answers`, and what it brings is sent to Kafka by `intake`; `http` is the transport, `keys` says who
may do what, and `openapi` describes it.
"""
