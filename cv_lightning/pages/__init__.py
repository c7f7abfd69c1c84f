"""Common parts of all HTML pages: shell, stylesheet, figures, tables. Imports no other package of this project."""
