"""The search spaces that come with ensemble_tune: TOML files, found by name."""
