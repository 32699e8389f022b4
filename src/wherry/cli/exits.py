"""What the command line's exit status says."""

EXIT_OK = 0
"""Done."""

EXIT_ERROR = 1
"""The command was wrong, the service refused it, or what was checked is damaged."""

EXIT_ERRORED = 2
"""The action errored."""

EXIT_WATCH_STOPPED = 3
"""The action was no longer watched; it goes on."""

EXIT_CANCELLED = 4
"""The action was cancelled."""
