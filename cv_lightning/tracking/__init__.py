"""Runs in MLflow: the names of its stores, and its runs by id or experiment."""
