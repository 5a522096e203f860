"""From notebooks and pages to the site: run, stage, build, export. Each is `python -m tools.<name>`."""
