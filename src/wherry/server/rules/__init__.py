"""Pure rules: what is allowed, and what runs next. No clock, no disk, no database."""
