"""Records → tidy frames, statistics over seeds, and tables as text."""
