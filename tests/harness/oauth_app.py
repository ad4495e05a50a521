"""The tests' server of OAuth 2.0: its addresses, and its access tokens, JWTs as of RFC 9068."""

import time
from typing import Any
from uuid import uuid4

from django.contrib import admin
from django.urls import include, path
from jwcrypto.jwt import JWT
from oauth2_provider.oauth2_validators import OAuth2Validator
from oauth2_provider.settings import oauth2_settings
from oauth2_provider.utils import jwk_from_pem

from tests.harness.oauth_server import AUDIENCE, ROLES

urlpatterns = [
    path("admin/", admin.site.urls),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
]


class Validator(OAuth2Validator):
    """Says in ID tokens whose they are, and what roles that one has."""

    oidc_claim_scope = None

    def get_additional_claims(self, request: Any) -> dict[str, Any]:
        """More than the name."""
        user = request.user
        return {"email": user.email, "roles": ROLES[user.username]}


def sign_token(request: Any, refresh_token: bool = False) -> str:
    """A JWT for who asks, as Django OAuth Toolkit calls for it."""
    del refresh_token
    key, now = jwk_from_pem(oauth2_settings.OIDC_RSA_PRIVATE_KEY), int(time.time())
    issuer = oauth2_settings.oidc_issuer(request)
    who = {"iss": issuer, "sub": request.client.client_id, "aud": AUDIENCE, "jti": uuid4().hex}
    when = {"iat": now, "exp": now + oauth2_settings.ACCESS_TOKEN_EXPIRE_SECONDS}
    token = JWT(
        header={"alg": "RS256", "kid": key.thumbprint(), "typ": "at+jwt"},
        claims=who | when | {"scope": " ".join(request.scopes)},
    )
    token.make_signed_token(key)
    signed: str = token.serialize()
    return signed
