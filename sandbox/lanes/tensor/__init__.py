"""Many lifted programs at once, as tensor operations on a device.

Kornia does what it does as the libraries do; docs/kornia_lane.md says what is ours, and why. Nothing in `sandbox`
imports this package, and with it torch and Kornia, before an executor is asked for a device.
"""
