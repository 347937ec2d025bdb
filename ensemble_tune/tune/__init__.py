"""Searching: spaces, samplers, schedulers, the ledger and their runner on Ray. Knows ray, optuna and pyarrow, never torch."""
