"""From a plain function to running code: compiling, variants by element type, the cache on disk, PTX."""
