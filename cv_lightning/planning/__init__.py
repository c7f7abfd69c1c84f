"""Computes how much memory and time a config needs, before a device is rented: `plan`."""
