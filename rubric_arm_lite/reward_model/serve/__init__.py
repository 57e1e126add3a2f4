"""The reward model as an HTTP service, and a local page on top of it.

A request passes :mod:`.security` (host, key, size), becomes a pydantic model of :mod:`.schema`, waits in the queue of
:mod:`.batcher`, is answered there together with others of equal settings, and leaves as another pydantic model.
:mod:`.app` defines the routes, :mod:`.server` runs them until a signal.
"""
