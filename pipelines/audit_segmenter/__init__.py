"""Question suspects that segment with the evidence of a marked segmenter."""
