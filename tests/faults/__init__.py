"""The fault suite: things broken on purpose, and what must come of it (docs/reliability.md)."""
