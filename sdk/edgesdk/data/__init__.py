"""Samples and labels, split so that no part flatters another, and what judges outputs."""
