"""Monitoring: what the owner of a server can know of all runs, as metrics for Prometheus and as a log of runs.

Here belong: classes of fall-backs, counters, the log line of a run, and the thread that makes them beside the runs.
Not here: what the user of one run sees (`streaming`, `sampling.announcer`), and the HTTP routes (`streaming.routes`).
"""
