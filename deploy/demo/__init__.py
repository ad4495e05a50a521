"""The demo: the whole loop on one machine, with real people's events."""

from deploy.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
