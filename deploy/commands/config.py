"""`headwater config` and `headwater schema`: what is set, and what the topics carry."""

import json
from typing import Annotated

import typer

from deploy import settings_text
from deploy.settings import Settings, load_settings
from deploy.settings_reference import render_reference
from features.asyncapi import make_document
from stream.api import headwater_pb2
from stream.api.openapi import make_openapi
from stream.api.proto import make_proto, read_numbers

Reference = Annotated[
    bool,
    typer.Option(
        "--reference", help="print the page docs/reference/settings.md, which lists all settings"
    ),
]

OfHttp = Annotated[bool, typer.Option("--http", help="the OpenAPI document of the HTTP API")]
OfGrpc = Annotated[bool, typer.Option("--grpc", help="the protocol buffers of the gRPC API")]


def config(reference: Reference = False) -> None:
    """Print the effective settings as TOML, secrets masked."""
    text = render_reference(Settings) if reference else settings_text.toml(load_settings())
    print(text, end="")


def schema(http: OfHttp = False, grpc: OfGrpc = False) -> None:
    """Print the AsyncAPI document of the topics, or the document of the HTTP or the gRPC API."""
    if grpc:
        print(make_proto(read_numbers(headwater_pb2.DESCRIPTOR)), end="")
        return
    document = make_openapi() if http else make_document()
    print(json.dumps(document, indent=2, ensure_ascii=False))
