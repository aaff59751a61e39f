"""The history of the traffic: minutes taken out of the live windows, rolled up, and asked."""
