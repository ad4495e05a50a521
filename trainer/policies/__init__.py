"""What other versions or rules would have earned, by a log of what was shown. Without torch."""
