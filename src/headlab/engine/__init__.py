"""The instrument: one attention function, the model it sits in, and the passes that run through it."""
