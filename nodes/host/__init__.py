"""The only code that touches ComfyUI's internals. Nodes call it; it calls `chords_core`.

Here belong: folders by feature (sampling, devices, compatibility, streaming, SDO, Ray, benchmark), and what several of
them need.
Not here: schemas and tooltips of nodes, mathematics.
"""
