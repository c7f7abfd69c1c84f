"""Runs in MLflow: the URIs of stores, and runs by id or experiment."""
