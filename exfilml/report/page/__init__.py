"""The page of a ranking or a triage: facts, then dictionaries, then templates."""
