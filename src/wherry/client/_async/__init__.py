"""``AsyncClient``, written by hand. ``make sync-client`` generates ``_sync`` from it."""
