"""Speech: audio files, synthesis engines, phrasings, noise, the cache of spoken questions."""
