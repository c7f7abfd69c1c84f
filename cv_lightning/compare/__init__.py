"""Compares runs: configs, metrics, answers to the same questions, curves, tools."""
