"""Sample -> answer: the engine, and the systems that are compared with it."""
