"""The actions that callers request and that take time, one file a kind."""
