"""How the tests' server of OAuth 2.0 is set up, as Django reads it."""

import os
from pathlib import Path
from uuid import uuid4

_folder = Path(os.environ["OAUTH_FOLDER"])

SECRET_KEY = uuid4().hex
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "tests.harness.oauth_app"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(_folder / "db")}}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "oauth2_provider",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
OAUTH2_PROVIDER = {
    "ACCESS_TOKEN_EXPIRE_SECONDS": 300,
    "ACCESS_TOKEN_GENERATOR": "tests.harness.oauth_app.sign_token",
    "OIDC_ENABLED": True,
    "OIDC_RSA_PRIVATE_KEY": (_folder / "key.pem").read_text(),
    "SCOPES": {"openid": "who one is", "kafka": "to use Kafka"},
    "DEFAULT_SCOPES": ["kafka"],
}
