"""Shared by all HTML pages: one shell, one stylesheet, figures, tables. It imports no other package of ours."""
