"""Of the same name as a package of ours, and first on sys.path."""

raise RuntimeError("this is the neighbour's package")
