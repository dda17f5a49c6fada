"""Questions about checkpoints: do they fit, how similar are they, how was this one made?"""

__all__: list[str] = []
