"""Boards: reached, measured through the agent, or predicted from their profile."""
