"""The confined workers, which run code that does not lift. See sandbox/README.md for what confines them.

The trainer's side imports nothing from here except `wire`, `levels` and, to start it, the path of `zygote`.
"""
