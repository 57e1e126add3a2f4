"""Where models run; the heavy libraries are imported only here, when a backend is loaded."""
