"""Who logs in to the console by OpenID Connect: a real provider, a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from deploy import local
from deploy.local.process import free_port
from features.kafka import ensure_topics
from tests.harness.console import Console, running_console, visiting
from tests.harness.http_process import call_json
from tests.harness.oauth_server import AUDIENCE, CONSOLE, PASSWORD, OAuthServer, oauth_server
from tests.harness.servers import state_in

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def provider(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[OAuthServer, Console]]:
    """A provider, and a console that leads to it."""
    folder, port = tmp_path_factory.mktemp("sign-on"), free_port()
    redirect_url = f"http://127.0.0.1:{port}/login/oidc/done"
    with state_in(folder / "state") as own, oauth_server(folder / "oauth", redirect_url) as oauth:
        settings = local.up(own)
        ensure_topics(settings.kafka)
        told = {
            "oidc.issuer": oauth.issuer,
            "oidc.audience": AUDIENCE,
            "oidc.client_id": CONSOLE,
            "oidc.client_secret": oauth.secret,
            "oidc.redirect_url": redirect_url,
            "oidc.scopes": '["openid", "email"]',
            "oidc.operators": '["shop-operators"]',
        }
        with running_console(own, settings, folder, {"port": port}, told) as console:
            yield oauth, console


def log_in(page: Page, name: str) -> None:
    """Log in at the provider's page."""
    page.click("text=Log in with your organisation")
    page.wait_for_selector("#id_username")
    page.fill("#id_username", name)
    page.fill("#id_password", PASSWORD)
    page.click("input[type=submit]")


def test_roles_of_the_provider_open_the_console(
    provider: tuple[OAuthServer, Console], browser: Browser
) -> None:
    oauth, console = provider
    with visiting(browser, console, key="", allowed=oauth.url) as visit:
        visit.go("/login?next=/audit")
        log_in(visit.page, "ann")
        visit.page.wait_for_url(f"{console.url}/audit")
        assert "oidc:ann@shop.example, operator" in visit.page.inner_text("header")
        answer = visit.page.request.put(
            f"{console.url}/v1/placements/home",
            data={"limit": 3},
            headers={"x-csrf-token": visit.page.get_attribute("body", "data-csrf") or ""},
        )
        assert (answer.status, "administer" in answer.text()) == (403, True)
        visit.page.click("text=Log out")
        visit.page.wait_for_url("**/login")


def test_programs_bring_tokens_in_place_of_keys(provider: tuple[OAuthServer, Console]) -> None:
    oauth, console = provider
    path = f"{console.url}/v1/admin/audit"
    assert call_json(path, "GET", None, oauth.fetch_token("view"))[0] == 200
    status, problem = call_json(path, "GET", None, oauth.fetch_token("kafka"))
    assert (status, problem["type"]) == (403, "/docs#scope")
    status, problem = call_json(path, "GET", None, oauth.fetch_token("view")[:-8])
    assert (status, problem["type"]) == (401, "/docs#no-key")
    assert "the access token is not valid" in problem["detail"]


def test_who_has_no_role_is_told_whom_to_ask(
    provider: tuple[OAuthServer, Console], browser: Browser
) -> None:
    oauth, console = provider
    with visiting(browser, console, key="", allowed=oauth.url) as visit:
        visit.go("/login")
        log_in(visit.page, "bob")
        visit.page.wait_for_url(f"{console.url}/login/oidc/done*")
        told = visit.page.inner_text("main")
        assert "bob@shop.example: roles names no role that may enter this console" in told
        visit.go("/audit")
        assert visit.page.url.startswith(f"{console.url}/login")


def test_a_login_that_this_browser_has_not_begun_is_refused(
    provider: tuple[OAuthServer, Console], browser: Browser
) -> None:
    oauth, console = provider
    with visiting(browser, console, key="", allowed=oauth.url) as visit:
        visit.go("/login/oidc/done?code=stolen&state=s")
        assert "this browser has begun no login" in visit.page.inner_text("main")
        visit.page.request.get(f"{console.url}/login/oidc", max_redirects=0)
        visit.go("/login/oidc/done?code=stolen&state=s")
        assert "state: is not that of the login" in visit.page.inner_text("main")


def test_a_key_opens_it_too(provider: tuple[OAuthServer, Console], browser: Browser) -> None:
    _, console = provider
    with visiting(browser, console, "viewer") as visit:
        assert "viewer, viewer" in visit.page.inner_text("header")
