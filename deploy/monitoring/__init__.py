"""What is to be expected, and what is not: demand, anomalies of rates, drift of distributions.

    demand.py      windows of events become counts by item and day
    intervals.py   what past errors of such series say of the next ones
    forecasts.py   the next day and week of many series of counts, with intervals, and a backtest
    takers.py      who takes what: people, gathered into ticks, each once a visit
    anomalies.py   a rate that its past does not allow, found while it happens
    distributions.py  which distributions are followed
    drift.py       a distribution that is no longer the one of the reference window
    alerts.yml     rules for Prometheus, on what the processes say of themselves

All of it is numpy over columns, and knows neither Kafka nor a server.
"""

from pathlib import Path

ALERT_RULES = Path(__file__).with_name("alerts.yml")
"""Rules for Prometheus; docs/how-to/alerts.md says what to do."""
