"""The contract suite: named checks that every method folder must pass, ours and third parties' (``mlip check-baseline``)."""
