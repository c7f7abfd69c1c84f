"""Finds from the pixels what confined code did to an image."""
