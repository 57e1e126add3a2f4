"""The model as an HTTP service, and the local page on top of it.

A request goes through :mod:`.gate` (host, key, size), is read by :mod:`.bodies`, waits in the queue of :mod:`.worker`,
is answered together with others by :mod:`.questions`, and goes back as JSON (:mod:`.answers`). :mod:`.app` ties these
together and :mod:`.server` runs them until it is told to stop.
"""
