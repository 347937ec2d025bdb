"""Clusters: what a file would start, whether it is safe to, and a machine's notice that it will be taken away."""
