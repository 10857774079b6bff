// Shared maths of the score.
