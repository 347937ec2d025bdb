"""The names of scores that more than one file knows; no torch, for whoever only reads them."""

MILLISECONDS, PARAMETERS, MEMORY = "milliseconds", "parameters", "memory"
"""Wall-clock milliseconds an image, millions of parameters, and the most megabytes held at once while one image is
segmented. The first is the one score that two runs of the same trial do not share to the last bit."""
