"""Published results beside ours: `shrinknet reproduce NAME`."""
