"""What the HTML pages share: one shell, one stylesheet, figures, tables. It imports no other package of ours."""
