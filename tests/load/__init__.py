"""The bench: how fast the platform is, measured on one that is started for it, and audited afterwards.

`scripts/bench` is the command. The load comes from a process of its own (`driver`); what is measured is read
from the operating system, the databases and the topics (`measuring`, `published`), never from the services'
own metrics.
"""
