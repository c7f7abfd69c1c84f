"""Runs many lifted programs at once, as tensor operations on a device.

Kornia does the operations in which it agrees with the libraries; docs/kornia_lane.md lists our own operations and the
reasons. `sandbox` imports this package, and with it torch and Kornia, only when an executor is asked for a device.
"""
