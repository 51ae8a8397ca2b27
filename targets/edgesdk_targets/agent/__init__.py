"""The measuring agent: one JSON request per line on stdin, one JSON answer per line on stdout.

It runs on Python 3.8 and later with the standard library alone; a runner imports its runtime when it is asked to.
"""
