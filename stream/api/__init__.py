"""The API: a person asks, and is answered by the serving core that the worker uses.

A request is read by the structs of `headwater_client.contract`, which apps have too, answered by
`answers`, and what it brings is sent to Kafka by `intake`. `http` and `rpc` are the transports,
`keys` says who may do what, and `openapi` and `proto` describe it.
"""
