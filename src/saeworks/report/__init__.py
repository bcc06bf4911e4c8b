"""Suites' recorded numbers → one static HTML report. Reads JSON alone: no torch, no weights."""
