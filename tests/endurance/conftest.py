"""What pytest leaves alone: a search for doctests would import the fork server's warm-up, which trains networks."""

collect_ignore = ["warm.py"]
