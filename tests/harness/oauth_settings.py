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
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "oauth2_provider",
]
STATIC_URL = "static/"
LOGIN_URL = "/admin/login/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
OAUTH2_PROVIDER = {
    "ACCESS_TOKEN_EXPIRE_SECONDS": 300,
    "ACCESS_TOKEN_GENERATOR": "tests.harness.oauth_app.sign_token",
    "OAUTH2_VALIDATOR_CLASS": "tests.harness.oauth_app.Validator",
    "OIDC_ENABLED": True,
    "OIDC_RSA_PRIVATE_KEY": (_folder / "key.pem").read_text(),
    "SCOPES": {
        "openid": "who one is",
        "email": "how to write",
        "kafka": "to use Kafka",
        "view": "to look",
    },
    "DEFAULT_SCOPES": ["kafka"],
}
