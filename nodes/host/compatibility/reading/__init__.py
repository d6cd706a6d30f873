"""Reading the code of patches: do they keep state between calls, draw random numbers, or act in a part of the steps?

Here belong: following the source of a function, and what is known of Python, torch and numpy for that.
Not here: running a patch (`trial`).
"""
