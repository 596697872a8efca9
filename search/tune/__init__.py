"""Ray Tune's side of a study: searcher, scheduler, capacity, recovery."""
