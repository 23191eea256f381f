"""What a smaller network gets back: all of its weights refit together to what the whole one gave."""
