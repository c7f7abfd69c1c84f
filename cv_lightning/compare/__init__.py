"""Runs beside each other: configs, metrics, answers to the same questions, curves, tools."""
