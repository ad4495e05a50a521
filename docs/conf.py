"""How the site is built: `uv run --group docs sphinx-build -W docs SITE`. A dead link fails it."""

from importlib.metadata import version as installed_version

project = "Headwater"
author = "Headwater's developers"
release = installed_version("headwater")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Headwater {release}"
html_extra_path = [
    f"reference/{name}" for name in ("asyncapi.json", "openapi.json", "headwater.proto")
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
# Links to code lead out of the site, to the repository: `myst` shows their text.
myst_links_external_new_tab = True

autodoc_typehints = "description"
autodoc_member_order = "bysource"
