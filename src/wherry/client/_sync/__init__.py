# Generated from ../_async/__init__.py by scripts/sync_client.py: change that file, then run make sync-client.
"""``Client``, written by hand. ``make sync-client`` generates ``_sync`` from it."""
