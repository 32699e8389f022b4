"""Background work on what is stored: collect, compact, scrub, heal, verify, expire, prune."""
