"""What a person sees of a run: its history, what was planned beside what was measured, one page. A run folder alone."""
