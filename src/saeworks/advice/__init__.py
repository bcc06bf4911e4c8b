"""What to train for a budget: pilots, the law fitted to them, the run that follows."""
