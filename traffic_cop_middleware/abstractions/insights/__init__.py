"""What stands out in the traffic, as sentences with their figures."""
