"""Documents as people read them: the verdict in three lines, and pages of HTML that nothing has to be loaded for."""
