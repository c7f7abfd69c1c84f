"""Many lifted programs at once, as tensor operations on a device; see docs/kornia_lane.md.

Nothing in `sandbox` imports this package, and with it torch and Kornia, before an executor is asked for a device.
"""
