"""Segmentation: frames, base models, predictions, fusions and meta-models. Knows torch, never ray or optuna."""
