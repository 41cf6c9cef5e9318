"""Files that outlive a run: compiled code that is kept, and files that users name."""
