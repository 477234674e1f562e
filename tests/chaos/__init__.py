"""The fault suite: faults injected into a running platform under load, and what must hold afterwards."""
