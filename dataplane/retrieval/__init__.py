"""Knowledge that admits its age: what the gateway finds in a corpus, of which revision, and how fresh that is."""
