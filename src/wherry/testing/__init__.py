"""For tests of programs that use wherry, and for wherry's own: a real service, and backends that fail on purpose."""
