"""What is counted of the traffic: histograms, series, usage, and how a worker's figures are kept and sent."""
