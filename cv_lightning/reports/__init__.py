"""The report of a run: `report.json` and `metrics.csv` as one self-contained page with figures."""
