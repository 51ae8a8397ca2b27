"""From a traced model to the chosen candidate: prices, search, candidates, the closed loop."""
