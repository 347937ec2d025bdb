"""One page about a run: from its ledger, its comparison, its manifests and its evidence. No torch, no Ray."""
