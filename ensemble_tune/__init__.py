"""Distributed hyper-parameter search for two-stage semantic-segmentation ensembles."""
