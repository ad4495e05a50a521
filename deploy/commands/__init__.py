"""The commands, a module each; `deploy.cli` names them."""
