"""Choosing: the best combination of choices within a budget, with the proof of how good it is."""
