"""Files that outlive a run: what is compiled and kept, what users hand over and want."""
