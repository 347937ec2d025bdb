"""Searching: spaces, samplers, schedulers, ledger, and their runner on Ray. Knows ray, optuna, pyarrow, never torch."""
